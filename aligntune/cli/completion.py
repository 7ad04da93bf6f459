"""Completion of `kubectl aligntune`: kubectl asks `kubectl_complete-aligntune` for it."""

import os
import shlex
import sys

from aligntune.cli import app

FILES_IF_NONE = ":0"
"""kubectl's word for: where nothing is proposed, propose files."""


def main() -> None:
    """Prints what the last word may become, a tab before its description: as fish reads it, too."""
    words = sys.argv[1:] or [""]
    typed = " ".join(shlex.quote(word) if word else "" for word in ["aligntune", *words])
    os.environ |= {
        "_ALIGNTUNE_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": typed,
    }
    try:
        app(prog_name="aligntune")
    finally:
        sys.stdout.write(f"{FILES_IF_NONE}\n")
