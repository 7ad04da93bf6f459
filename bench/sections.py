"""Sections of the report: what one measurement found, in Markdown, and its raw data beside it."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

REPORT = Path("runs/bench")
"""The folder of report.md, which `python -m bench.scale report` writes."""


def publish(name: str, title: str, lines: Iterable[str], raw: Any, *, load: float) -> None:
    """Print a section, and keep it for the report.

    Args:
        name: Of its files.
        title: Its heading.
        lines: Of Markdown.
        raw: What it was made of, as JSON has it.
        load: Of the machine before the first run.
    """
    loads = f"load {load:.1f} before and {os.getloadavg()[0]:.1f} after"
    text = "\n".join([f"## {title}", "", f"{loads[0].upper()}{loads[1:]}.", "", *lines, ""])
    print(text, flush=True)
    folder = REPORT / "sections"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.json").write_text(json.dumps(raw, indent=1) + "\n")


def published(report: Path) -> list[str]:
    """The sections that are there, by name."""
    return [file.read_text().strip() for file in sorted((report / "sections").glob("*.md"))]
