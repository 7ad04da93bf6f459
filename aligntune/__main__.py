"""`python -m aligntune` is the command line."""

from aligntune.cli import main

main()
