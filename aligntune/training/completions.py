"""What the model said and what it got for it, as a table that a person can look at."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FOLDER = "completions"
"""Below the run's output folder."""
ROWS = 64
"""Completions per file. 64: enough to see what is rewarded, and a few dozen kilobytes."""
FILES = 100
"""Files that are kept, the newest: a long run must not fill the volume."""
SHOWN = 4
"""Completions in the log: half of them the best, half the worst."""
WIDTH = 120
"""Characters of a line in the log."""

Row = dict[str, Any]
"""`step`, `prompt`, `completion`, `reward`, `reward_<name>` for each function, `advantage`."""


def write(output: Path, step: int, rows: Sequence[Row]) -> Path:
    """Write a step's completions as JSON lines, and remove the oldest files beyond `FILES`.

    Raises:
        OSError: The disk is full.
    """
    folder = output / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:08}.jsonl"
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:ROWS])
    path.write_text("".join(lines), "utf-8")
    for old in sorted(folder.glob("step-*.jsonl"))[:-FILES]:
        old.unlink()
    return path


def shown(rows: Sequence[Row]) -> str:
    """The best and the worst completions, drawn as a table."""
    ranked = sorted(rows, key=lambda row: -row["advantage"])
    few = ranked if len(ranked) <= SHOWN else ranked[: SHOWN // 2] + ranked[-SHOWN // 2 :]
    table = Table(show_lines=True)
    names = [name for name in few[0] if name != "step"] if few else []
    for name in names:
        table.add_column(name, justify="left" if name in ("prompt", "completion") else "right")
    for row in few:
        table.add_row(*(_cell(row[name]) for name in names))
    console = Console(file=io.StringIO(), width=WIDTH, markup=False, emoji=False)
    console.print(table)
    drawn: str = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above
    return drawn


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
