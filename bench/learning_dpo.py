"""Does DPO learn what is preferred? Accuracy on held-out pairs, and a control.

    python bench/learning_dpo.py [SEEDS]

SmolLM2-135M-Instruct with adapters. The better answer is the chatterbot corpus's, the worse one
what people said elsewhere in as many characters, so that length tells nothing; style may. The
held-out pairs are of questions that are not trained on. The control is trained alike, on the same
pairs with better and worse swapped in a random half, and measured on the true ones: what it gains
is not learned from preferences. Accuracy is that of the implicit rewards: 0.5 before the first
step. Prints Markdown; the numbers are in runs/learning/dpo.json.
"""

import json
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from methods import CACHE, MODEL
from records import RECORDS, keep

DATA = CACHE / "data" / "chatterbot-preferences"
OUTPUT = RECORDS / "dpo"
STEPS, BATCH, RATE = 25, 4, 2e-4
WITHOUT_SYSTEM_PROMPT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The model's own template would put as many tokens again before each question."""


def swapped(folder: Path, seed: int) -> Path:
    """The training pairs, a random half of them the wrong way round."""
    chance = random.Random(seed)
    rows = [json.loads(line) for line in (DATA / "train.jsonl").read_text().splitlines()]
    for row in rows:
        if chance.random() < 0.5:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    path = folder / "swapped.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(seed: int, control: bool) -> dict[str, Any]:
    """Train, and measure on the held-out pairs."""
    from aligntune.backends.trl.rl.dpo.dpo import TRLDPOTrainer
    from aligntune.core.rl.config import UnifiedConfig

    folder = OUTPUT / f"seed-{seed}{'-control' if control else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    config = UnifiedConfig.model_validate(
        {
            "algo": "dpo",
            "model": {
                "name": str(MODEL),
                "maxLength": 96,
                "chatTemplate": WITHOUT_SYSTEM_PROMPT,
            },
            "datasets": [{"name": str(swapped(folder, seed) if control else DATA / "train.jsonl")}],
            "evaluation": {"datasets": [{"name": str(DATA / "test.jsonl")}]},
            "train": {
                "maxSteps": STEPS,
                "perDeviceBatchSize": BATCH,
                "learningRate": RATE,
                "seed": seed,
            },
            "checkpoint": {"everySteps": 1000, "keep": 1, "resume": "never"},
            "outputDir": str(folder),
        }
    )
    trainer = TRLDPOTrainer(config)
    trainer.setup()
    began, began_cpu = time.monotonic(), time.process_time()
    trainer.train()
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - began_cpu
    return {
        "seed": seed,
        "control": control,
        "held_out": trainer.evaluate(),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def line(result: dict[str, Any]) -> str:
    """A row of the table; the interval is of the held-out pairs alone."""
    pairs = len((DATA / "test.jsonl").read_text().splitlines())
    held_out = result["held_out"]
    accuracy = held_out["eval_reward_accuracy"]
    half = 1.96 * (accuracy * (1 - accuracy) / pairs) ** 0.5
    return (
        f"| {result['seed']} | {'half of them swapped' if result['control'] else 'as they are'}"
        f" | {accuracy:.3f} ± {half:.3f} | {held_out['eval_reward_margin']:.3f}"
        f" | {held_out['eval_loss']:.3f} | {result['cpu_seconds']:.0f} |"
    )


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    print(
        "| seed | training pairs | held-out accuracy (95%) | margin | loss | CPU seconds to train |"
        "\n|---|---|---|---|---|---|"
    )
    wanted = [(seed, control) for seed in range(seeds) for control in (False, True)]
    results = []
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for result in pool.map(run, *zip(*wanted, strict=True)):
            results.append(result)
            print(line(result), flush=True)
    keep("dpo", results, steps=STEPS, batch=BATCH)


if __name__ == "__main__":
    main()
