"""Trainers on Unsloth's models.

Unsloth changes transformers as it is imported, so it has to come first. Python runs this file
before any module beside it, and with it before the TRL trainers that they build on.
"""

from aligntune.backends.unsloth.library import load

load()
