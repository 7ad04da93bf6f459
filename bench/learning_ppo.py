"""Does PPO learn? Sums of digits by reward, on a tiny model over seeds, and once on SmolLM2.

    python bench/learning_ppo.py [SEEDS] [--no-smollm]

The tiny model of digits.py knows each sum with a probability of 0.4 on average. PPO trains all its
weights on 800 sums; the other 200 are held out, and each of them is asked `ASKED` times. Controls:
a rate of 1e-20, which changes nothing, and a coin's throw as reward, which has nothing to teach.
SmolLM2-135M-Instruct runs examples/ppo-sums.yaml. Prints Markdown; the numbers are in
runs/learning/ppo.json.
"""

import json
import os
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for controls:coin
from digits import prepare
from ruamel.yaml import YAML

from aligntune.backends.trl.rl.ppo.ppo import TRLPPOTrainer
from aligntune.core.rl.config import UnifiedConfig

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aligntune"
OUTPUT = Path("runs/learning/ppo")
EXAMPLE = Path(__file__).parents[1] / "examples" / "ppo-sums.yaml"
ASKED = 5
STEPS, RATE, AS_GOOD_AS_NONE = 240, 5e-4, 1e-20
RIGHT = {"name": "exact_match"}
COIN = [{"name": "controls:coin"}, RIGHT | {"weight": 0}]
KEPT = {"checkpoint": {"everySteps": 10_000, "keep": 1, "resume": "never"}}


def digits(seed: int, rate: float, rewards: list[dict[str, Any]]) -> UnifiedConfig:
    """A run on the tiny model."""
    folder = prepare(Path("runs/learning/digits"))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    asked = OUTPUT / f"test-{ASKED}.jsonl"
    asked.write_text((folder / "test.jsonl").read_text() * ASKED)
    name = f"{rewards[0]['name'].partition(':')[2] or 'right'}-{rate:g}-{seed}"
    return UnifiedConfig.model_validate(
        {
            "algo": "ppo",
            "model": {"name": str(folder / "model"), "tuning": "full"},
            "datasets": [{"name": str(folder / "train.jsonl")}],
            "evaluation": {"datasets": [{"name": str(asked)}], "perDeviceBatchSize": 500},
            "rewards": rewards,
            "ppo": {
                "rolloutBatchSize": 256,
                "epochs": 2,
                "minibatches": 2,
                "kl": {"coefficient": 0.01},
            },
            "generation": {"maxNewTokens": 4},
            "train": {
                "maxSteps": STEPS,
                "perDeviceBatchSize": 128,
                "learningRate": rate,
                "lrScheduler": "constant_with_warmup",
                "warmupRatio": 0.05,
                "seed": seed,
            },
            "logging": {"everySteps": 20},
            "outputDir": str(OUTPUT / name),
            **KEPT,
        }
    )


def smollm2() -> UnifiedConfig:
    """The run of the example."""
    rl = YAML(typ="safe").load(EXAMPLE.read_text())["spec"]["rl"]
    local = json.loads(json.dumps(rl).replace("/cache/", f"{CACHE}/"))
    return UnifiedConfig.model_validate(local | KEPT | {"outputDir": str(OUTPUT / "smollm2")})


def run(config: UnifiedConfig) -> dict[str, Any]:
    """Train, and measure before and after; `curve` has what was logged on the way."""
    trainer = TRLPPOTrainer(config)
    before = trainer.evaluate()
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    after = trainer.evaluate()
    curve = [line for line in trainer.need_loop().state.log_history if "reward_mean" in line]
    return {
        "seed": config.train.seed,
        "before": before,
        "after": after,
        "seconds": seconds,
        "curve": curve,
    }


def show(what: str, result: dict[str, Any], *metrics: str) -> None:
    """One row of a table."""
    both = " | ".join(
        f"{result[when][f'eval_{metric}']:.3f}"
        for metric in metrics
        for when in ("before", "after")
    )
    last = result["curve"][-1]
    print(
        f"| {what} | {result['seed']} | {both} | {last['kl']:.2f} | {result['seconds']:.0f} |",
        flush=True,
    )


def main() -> None:
    numbers = [argument for argument in sys.argv[1:] if argument.isdecimal()]
    seeds = int(numbers[0]) if numbers else 5
    planned = [("right answers", seed, RATE, [RIGHT]) for seed in range(seeds)]
    planned += [("rate 1e-20", seed, AS_GOOD_AS_NONE, [RIGHT]) for seed in range(min(seeds, 2))]
    planned += [("coin's throw", seed, RATE, COIN) for seed in range(min(seeds, 3))]
    results: dict[str, list[dict[str, Any]]] = {}
    print("| reward | seed | right before | after | KL, nats a token | seconds |")
    print("|---|---|---|---|---|---|")
    for what, seed, rate, rewards in planned:
        result = run(digits(seed, rate, rewards))
        results.setdefault(what, []).append(result)
        show(what, result, "reward_exact_match")
    gains = [
        one["after"]["eval_reward_exact_match"] - one["before"]["eval_reward_exact_match"]
        for one in results["right answers"]
    ]
    print(f"\nMean gain {statistics.mean(gains):+.3f}, least {min(gains):+.3f}.")
    if "--no-smollm" not in sys.argv:
        print("\n| model | seed | reward before | after | right before | after", end="")
        print(" | number alone before | after | KL, nats a token | seconds |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        result = run(smollm2())
        results["SmolLM2"] = [result]
        named = ("reward", "reward_numeric_answer", "reward_regex")
        show("SmolLM2-135M-Instruct", result, *named)
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    document = {"versions": versions, "steps": STEPS, "asked": ASKED, "results": results}
    OUTPUT.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
