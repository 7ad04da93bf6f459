"""Runs on Unsloth's models, one after the other, in a process that trains with nothing else.

    python -m tests.trainers.unsloth_runs FOLDER

For each method that has a `METHOD.json` in the folder: a whole run, one that is stopped by SIGTERM
and goes on, and what the trained model says and leaves. `report.json` tells how they went.
Importing Unsloth takes as long as all of this.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from aligntune.api.manifest import read_run_config
from aligntune.core.backend_factory import get_backend_status, task_of, trainer_for
from aligntune.core.errors import UnsupportedError
from aligntune.pod import rank
from tests.trainers.tiny import wait_for_step

QUESTION = "What is 1 plus 2?"
STOPPED_AFTER = 3
"""Steps, at least."""


def stopped(run: Path, output: Path) -> int:
    """The exit code of a run that gets SIGTERM on the way."""

    def stop() -> None:
        wait_for_step(output, STOPPED_AFTER)
        os.kill(os.getpid(), signal.SIGTERM)

    stopping = threading.Thread(target=stop)
    stopping.start()
    code = rank.train(run)
    stopping.join()
    return code


def report_of(run: Path) -> dict[str, Any]:
    """How the runs of one method went."""
    document = json.loads(run.read_text())
    section = document.get("sft") or document["rl"]
    parts = run.with_name(f"parts-{run.name}")
    output = Path(section["outputDir"] + "-parts")
    section["outputDir"] = str(output)
    parts.write_text(json.dumps(document))
    codes = [rank.train(run), stopped(parts, output), rank.train(parts)]

    config: Any = read_run_config(run).method
    trainer: Any = trainer_for("unsloth", task_of(config))(config)
    trainer.train()  # it is at its end already
    merged = trainer.save_model(f"{config.output_dir}/merged", merge=True)
    return {
        "codes": codes,
        "trainer": type(trainer).__name__,
        "model": type(trainer.model).__name__,
        "checkpointing": bool(trainer.model.is_gradient_checkpointing),
        "answer": trainer.predict(QUESTION, max_new_tokens=12),
        "merged": str(merged),
    }


def main(folder: Path) -> None:
    reports: dict[str, Any] = {
        run.stem: report_of(run) for run in sorted(folder.glob("*.json")) if run.stem.isalpha()
    }
    try:
        trainer_for("trl", "sft")
        refusal = ""
    except UnsupportedError as error:
        refusal = str(error)
    status = get_backend_status()["unsloth"]._asdict()
    (folder / "report").write_text(
        json.dumps({"runs": reports, "trl_refused": refusal, "status": status})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
