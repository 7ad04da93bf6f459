"""The same run three times: a pod's, a plain TRL script, and the `trl` command line."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from methods import METHODS, MODEL, ROLES, asked, config, trl_arguments, write_run

BENCH = Path(__file__).parent
BIN = Path(sys.executable).parent


def commands(
    method: str, steps: int, folder: Path, **changes: dict[str, Any]
) -> dict[str, list[str]]:
    """What starts each of them; `changes` are of the config."""
    of = {
        name: config(method, steps, folder / name, **changes) for name in ("ours", "plain", "trl")
    }
    ours = write_run(folder / "ours.json", method, of["ours"])
    plain = write_run(folder / "plain.json", method, of["plain"])
    return {
        "ours": [str(BIN / "aligntune"), "launch", str(ours), "--port", "0"],
        "plain": [sys.executable, str(BENCH / "plain_trl.py"), method, str(plain)],
        "trl": [str(BIN / "trl"), method, *trl_options(method, of["trl"], folder)],
    }


def messages(method: str, folder: Path) -> Path:
    """The rows as `trl` wants them: with a message in place of each text."""
    (folder / "rows").mkdir()
    source = Path(METHODS[method]["datasets"][0]["name"])
    with (folder / "rows" / "train.jsonl").open("w") as file:
        for line in source.read_text().splitlines():
            row = json.loads(line)
            turns = {
                name: [{"role": role, "content": row[name]}] for name, role in ROLES[method].items()
            }
            file.write(json.dumps(turns) + "\n")
    return folder / "rows"


def trl_options(method: str, config: dict[str, Any], folder: Path) -> list[str]:
    """The settings of plain_trl.py."""
    settings: dict[str, Any] = trl_arguments(method, config) | {
        "model_name_or_path": MODEL,
        "dtype": "float32",
        "dataset_name": messages(method, folder),
        "use_peft": True,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_modules": "all-linear",
    }
    if method == "grpo":
        settings["reward_funcs"] = "plain_trl.length"
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def asked_beside_trl() -> tuple[str, int | None]:
    """`methods.asked`, without what the command line cannot do alike."""
    method, rounds = asked()
    if method == "reward":
        sys.exit("not for reward: the trl command line has other settings for it")
    return method, rounds


def in_turn(number: int, of: Mapping[str, list[str]]) -> list[tuple[str, list[str]]]:
    """The order of a round: each begins with another."""
    named = list(of.items())
    first = number % len(named)
    return named[first:] + named[:first]


def environment(*paths: str, **variables: str) -> dict[str, str]:
    """One thread, and what `trl` must find to import plain_trl.py's reward."""
    found = [*paths, str(BENCH), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, found)),
        **variables,
    }
