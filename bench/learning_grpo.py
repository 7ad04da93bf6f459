"""Does GRPO learn? The share of right answers to held-out sums, before and after, and two controls.

    python bench/learning_grpo.py [SEEDS]

The model of digits.py, all weights, 800 sums to train on and 200 held out; each of these is asked
`ASKED` times. Controls: the same at a rate of 1e-20, which changes nothing, and with a coin's throw
as reward, which has nothing to teach. Then, once, SmolLM2-135M-Instruct with adapters on the sums
of examples/grpo-sums.yaml. Prints Markdown; the numbers are in runs/learning/grpo.json.
"""

import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for controls:coin
from digits import prepare

from aligntune.backends.trl.rl.grpo.grpo import TRLGRPOTrainer
from aligntune.core.rl.config import UnifiedConfig

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aligntune"
OUTPUT = Path("runs/learning/grpo")
RATE, AS_GOOD_AS_NONE = 1e-3, 1e-20
STEPS = 100
ASKED = 5
RIGHT = {"name": "exact_match"}
COIN = [{"name": "controls:coin"}, RIGHT | {"weight": 0}]
KEPT = {"checkpoint": {"everySteps": 1000, "keep": 1, "resume": "never"}}


def digits(seed: int, rate: float, rewards: list[dict[str, Any]]) -> UnifiedConfig:
    """A run on the tiny model."""
    folder = prepare(Path("runs/learning/digits"))
    asked = folder / f"test-{ASKED}.jsonl"
    asked.write_text((folder / "test.jsonl").read_text() * ASKED)
    name = f"{rewards[0]['name'].partition(':')[2] or 'right'}-{rate:g}-{seed}"
    return UnifiedConfig.model_validate(
        {
            "algo": "grpo",
            "model": {"name": str(folder / "model"), "tuning": "full"},
            "datasets": [{"name": str(folder / "train.jsonl")}],
            "evaluation": {"datasets": [{"name": str(asked)}], "perDeviceBatchSize": 1000},
            "rewards": rewards,
            "grpo": {"promptsPerStep": 16, "numGenerations": 8},
            "generation": {"maxNewTokens": 4},
            "train": {
                "maxSteps": STEPS,
                "perDeviceBatchSize": 128,
                "learningRate": rate,
                "warmupRatio": 0.1,
                "seed": seed,
            },
            "logging": {"everySteps": STEPS},
            "outputDir": str(OUTPUT / name),
            **KEPT,
        }
    )


def smollm2() -> UnifiedConfig:
    """The run of examples/grpo-sums.yaml, with sums held out."""
    import yaml

    example = Path(__file__).parent.parent / "examples" / "grpo-sums.yaml"
    rl = yaml.safe_load(example.read_text())["spec"]["rl"]
    data = CACHE / "data" / "sums"
    rl["model"]["name"] = str(CACHE / "models" / "SmolLM2-135M-Instruct")
    rl["datasets"] = [{"name": str(data / "train.jsonl")}]
    rl["evaluation"] = {"datasets": [{"name": str(data / "test.jsonl")}], "perDeviceBatchSize": 32}
    return UnifiedConfig.model_validate(rl | KEPT | {"outputDir": str(OUTPUT / "smollm2")})


def run(config: UnifiedConfig) -> dict[str, Any]:
    """Train, and measure before and after."""
    trainer = TRLGRPOTrainer(config)
    before = trainer.evaluate()
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    after = trainer.evaluate()
    return {"seed": config.train.seed, "before": before, "after": after, "seconds": seconds}


def show(what: str, result: dict[str, Any], *metrics: str) -> None:
    """One row of the table."""
    both = " | ".join(
        f"{result[when][f'eval_{metric}']:.3f}"
        for metric in metrics
        for when in ("before", "after")
    )
    print(f"| {what} | {result['seed']} | {both} | {result['seconds']:.0f} |", flush=True)


def measure_digits(seeds: int) -> dict[str, list[dict[str, Any]]]:
    """The tiny model: every seed, and the controls."""
    planned = [("right answers", seed, RATE, [RIGHT]) for seed in range(seeds)]
    planned += [("right answers, rate 1e-20", seed, AS_GOOD_AS_NONE, [RIGHT]) for seed in range(1)]
    planned += [("a coin's throw", seed, RATE, COIN) for seed in range(min(seeds, 2))]
    results: dict[str, list[dict[str, Any]]] = {}
    print("| reward | seed | right before | after | seconds |\n|---|---|---|---|---|")
    for what, seed, rate, rewards in planned:
        result = run(digits(seed, rate, rewards))
        results.setdefault(what, []).append(result)
        show(what, result, "reward_exact_match")
    return results


def measure_smollm2() -> dict[str, list[dict[str, Any]]]:
    """A real model, once."""
    print("\n| model | seed | reward before | after | right before | after | seconds |")
    print("|---|---|---|---|---|---|---|")
    result = run(smollm2())
    show("SmolLM2-135M-Instruct", result, "reward", "reward_numeric_answer")
    return {"SmolLM2-135M-Instruct": [result]}


def main() -> None:
    results = measure_digits(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    results |= measure_smollm2()
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "trl", "peft")}
    document = {"versions": versions, "steps": STEPS, "asked": ASKED, "results": results}
    OUTPUT.with_suffix(".json").write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
