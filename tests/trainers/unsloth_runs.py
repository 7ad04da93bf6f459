"""Runs on Unsloth's models, one after the other, in a process that trains with nothing else.

    python -m tests.trainers.unsloth_runs FOLDER

For each method that has a `METHOD.json` in the folder: a whole run, one that is stopped by SIGTERM
and goes on, and what the trained model says and leaves. `gguf/run.json` is a short run that saves
GGUF, too. `report` tells how they went. Importing Unsloth takes as long as all of this, so all
methods share a process.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from aligntune.api.manifest import read_run_config
from aligntune.core.backend_factory import choose_backend, get_backend_status, task_of, trainer_for
from aligntune.core.errors import ConfigError
from aligntune.pod import rank
from tests.trainers.tiny import merge, wait_for_step

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


def trainer_of(config: Any) -> Any:
    return trainer_for("unsloth", task_of(config))(config)


def report_of(run: Path) -> dict[str, Any]:
    """How the runs of one method went."""
    document = json.loads(run.read_text())
    section = document.get("sft") or document["rl"]
    output = Path(f"{section['outputDir']}-parts")
    parts = run.with_name(f"parts-{run.name}")
    section["outputDir"] = str(output)
    parts.write_text(json.dumps(document))
    codes = [rank.train(run), stopped(parts, output), rank.train(parts)]

    config: Any = read_run_config(run).method
    trainer = trainer_of(config)
    trainer.train()  # it is at its end already
    return {
        "codes": codes,
        "trainer": type(trainer).__name__,
        "checkpointing": bool(trainer.model.is_gradient_checkpointing),
        "answer": trainer.predict(QUESTION, max_new_tokens=12),
        "merged": str(trainer.save_model(f"{config.output_dir}/merged", merge=True)),
    }


def saved(config: Any) -> str:
    """The folder of a model that is trained and saved."""
    trainer = trainer_of(config)
    trainer.train()
    return str(trainer.save_model())


def refusal(config: Any, **sections: Any) -> str:
    """The sentence by which a config that is laid over another is refused."""
    document = merge(config.model_dump(by_alias=False, exclude_unset=True), sections)
    try:
        trainer_of(type(config).model_validate(document)).setup_model()
    except ConfigError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    runs = [run for run in sorted(folder.glob("*.json")) if "parts" not in run.name]
    report: dict[str, Any] = {"runs": {run.stem: report_of(run) for run in runs}}
    report["gguf"] = saved(read_run_config(folder / "gguf" / "run.json").method)
    config = read_run_config(folder / "sft.json").method
    report["refusals"] = {
        "too long": refusal(config, model={"max_length": 300}),
        "not a language model": refusal(config, model={"name": str(folder / "t5")}),
        "bf16": refusal(config, train={"precision": "bf16"}),
    }
    try:
        trainer_for("trl", "sft")
    except ConfigError as error:
        report["refusals"]["trl afterwards"] = str(error)
    report["auto"] = choose_backend(config)
    report["status"] = get_backend_status()["unsloth"]._asdict()
    (folder / "report").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
