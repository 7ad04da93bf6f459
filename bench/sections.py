"""Sections of the report: what one measurement found, in Markdown, and its raw data beside it."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.records import keep

REPORT = Path("runs/bench")
"""The folder of report.md, which `python -m bench.scale report` writes."""
SECTIONS = "sections"


def publish(name: str, title: str, lines: Iterable[str], raw: Any, *, load: float) -> None:
    """Print a section, and keep it for the report.

    Args:
        name: Of its files.
        title: Its heading.
        lines: Of Markdown.
        raw: What it was made of, as JSON has it.
        load: Of the machine before the first run.
    """
    loads = [load, os.getloadavg()[0]]
    told = "Load {:.1f} before and {:.1f} after.".format(*loads)
    text = "\n".join([f"## {title}", "", told, "", *lines, ""])
    print(text, flush=True)
    folder = REPORT / SECTIONS
    keep(name, raw, folder=folder, load=loads)
    (folder / f"{name}.md").write_text(text)


def published(report: Path) -> list[str]:
    """The sections that are there, by name."""
    return [file.read_text().strip() for file in sorted((report / SECTIONS).glob("*.md"))]
