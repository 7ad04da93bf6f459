"""Trains one run after the other in this process, since it takes long to import what trains.

python train_all.py FOLDER

Each subfolder, by name, has a run.json and perhaps a token; it gets the reports as report.jsonl.
"""

import os
import sys
from pathlib import Path

from aligntune.api.env import REPORT_FD
from aligntune.backends.trl.sft import sft  # noqa: F401 - so that the first run is not the slowest
from aligntune.pod.rank import train

for folder in sorted(Path(sys.argv[1]).iterdir()):
    token = folder / "token"
    os.environ.pop("HF_TOKEN", None)
    if token.is_file():
        os.environ["HF_TOKEN"] = token.read_text()
    with (folder / "unfinished").open("wb") as report:
        os.environ[REPORT_FD] = str(report.fileno())
        train(folder / "run.json")
    (folder / "unfinished").rename(folder / "report.jsonl")
