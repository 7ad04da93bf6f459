"""Does fine-tuning learn? Loss on held-out questions, before and after, and a control.

    python bench/learning_sft.py [SEEDS]

SmolLM2-135M-Instruct with adapters on the chatterbot corpus. The held-out rows are of questions
that are not trained on. The control is trained alike at a rate of 1e-20, which changes nothing:
what its loss does, the measuring does. Prints Markdown; the numbers are in runs/learning/sft.json.
"""

import sys
import time
from typing import Any

from methods import CACHE, MODEL
from records import RECORDS, keep

from aligntune.backends.trl.sft.sft import TRLSFTTrainer
from aligntune.core.sft.config import SFTConfig

DATA = CACHE / "data" / "chatterbot"
OUTPUT = RECORDS / "sft"
RATE, AS_GOOD_AS_NONE = 1e-3, 1e-20
STEPS = 30


def run(seed: int, rate: float) -> dict[str, Any]:
    """Train, and measure before and after."""
    config = SFTConfig.model_validate(
        {
            "model": {"name": str(MODEL), "maxLength": 64},
            "datasets": [{"name": str(DATA / "train.jsonl")}],
            "evaluation": {"datasets": [{"name": str(DATA / "test.jsonl")}]},
            "train": {
                "maxSteps": STEPS,
                "perDeviceBatchSize": 4,
                "learningRate": rate,
                "seed": seed,
            },
            "checkpoint": {"everySteps": 1000, "keep": 1, "resume": "never"},
            "outputDir": str(OUTPUT / f"seed-{seed}-rate-{rate:g}"),
        }
    )
    trainer = TRLSFTTrainer(config)
    before = trainer.evaluate()
    began = time.monotonic()
    if trainer.train().preempted:
        sys.exit("stopped on request")
    seconds = time.monotonic() - began
    after = trainer.evaluate()
    return {"seed": seed, "rate": rate, "before": before, "after": after, "seconds": seconds}


def main() -> None:
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    results = []
    print("| seed | rate | held-out loss: before | after | perplexity: before | after | seconds |")
    print("|---|---|---|---|---|---|---|")
    for seed, rate in [(seed, RATE) for seed in seeds] + [(0, AS_GOOD_AS_NONE)]:
        result = run(seed, rate)
        results.append(result)
        before, after = result["before"], result["after"]
        print(
            f"| {seed} | {rate:g} | {before['eval_loss']:.4f} | {after['eval_loss']:.4f}"
            f" | {before['eval_perplexity']:.1f} | {after['eval_perplexity']:.1f}"
            f" | {result['seconds']:.0f} |",
            flush=True,
        )
    keep("sft", results, steps=STEPS)


if __name__ == "__main__":
    main()
