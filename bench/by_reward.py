"""Whether an algorithm learns by reward: what learning_grpo.py and learning_ppo.py have in common.

The model of digits.py knows each sum of three digits with a probability of 0.4 on average. All its
weights are trained on 800 sums; the other 200 are held out, and each of them is asked `ASKED`
times. Controls: a rate of 1e-20, which changes nothing, and a coin flip as reward, which has
nothing to teach. Then, once, SmolLM2-135M-Instruct with adapters runs the algorithm's example.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for controls:coin
from digits import prepare
from methods import CACHE
from records import RECORDS, keep
from ruamel.yaml import YAML

from aligntune.core.backend_factory import create_rl_trainer
from aligntune.core.rl.config import UnifiedConfig

EXAMPLES = Path(__file__).parents[1] / "examples"
ASKED = 5
AS_GOOD_AS_NONE = 1e-20
RIGHT = {"name": "exact_match"}
COIN = [{"name": "controls:coin"}, RIGHT | {"weight": 0}]
KEPT = {"checkpoint": {"everySteps": 10_000, "keep": 1, "resume": "never"}}


def main(algo: str, settings: dict[str, Any], rate: float) -> None:
    """Measure all, and print Markdown; the numbers are in runs/learning/ALGO.json.

    Args:
        algo: `grpo` or `ppo`.
        settings: Sections of the runs on the tiny model.
        rate: Their learning rate.
    """
    numbers = [argument for argument in sys.argv[1:] if argument.isdecimal()]
    seeds = int(numbers[0]) if numbers else 5
    planned = [("right answers", seed, rate, [RIGHT]) for seed in range(seeds)]
    planned += [("rate 1e-20", seed, AS_GOOD_AS_NONE, [RIGHT]) for seed in range(min(seeds, 2))]
    planned += [("coin flip", seed, rate, COIN) for seed in range(min(seeds, 3))]
    results: dict[str, list[dict[str, Any]]] = {}
    print("| reward | seed | right before | after | KL, nats a token | seconds |")
    print("|---|---|---|---|---|---|")
    for what, seed, at, rewards in planned:
        result = run(digits(algo, settings, seed, at, rewards))
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
        result = run(smollm2(algo))
        results["SmolLM2"] = [result]
        named = ("reward", "reward_numeric_answer", "reward_regex")
        show("SmolLM2-135M-Instruct", result, *named)
    keep(algo, results, settings=settings, asked=ASKED)


def digits(
    algo: str, settings: dict[str, Any], seed: int, rate: float, rewards: list[dict[str, Any]]
) -> UnifiedConfig:
    """A run on the tiny model."""
    folder = prepare(RECORDS / "digits")
    (RECORDS / algo).mkdir(parents=True, exist_ok=True)
    asked = RECORDS / algo / f"test-{ASKED}.jsonl"
    asked.write_text((folder / "test.jsonl").read_text() * ASKED)
    name = f"{rewards[0]['name'].partition(':')[2] or 'right'}-{rate:g}-{seed}"
    common = {
        "algo": algo,
        "model": {"name": str(folder / "model"), "tuning": "full"},
        "datasets": [{"name": str(folder / "train.jsonl")}],
        "evaluation": {"datasets": [{"name": str(asked)}], "perDeviceBatchSize": 500},
        "rewards": rewards,
        "generation": {"maxNewTokens": 4},
        "outputDir": str(RECORDS / algo / name),
    }
    train = settings["train"] | {"learningRate": rate, "seed": seed}
    return UnifiedConfig.model_validate(common | KEPT | settings | {"train": train})


def smollm2(algo: str) -> UnifiedConfig:
    """The run of the example; the sums that it holds out are measured before and after."""
    text = (EXAMPLES / f"{algo}-sums.yaml").read_text()
    rl = YAML(typ="safe").load(text.replace("/cache/", f"{CACHE}/"))["spec"]["rl"]
    document = json.loads(json.dumps(rl))
    return UnifiedConfig.model_validate(
        document | KEPT | {"outputDir": str(RECORDS / algo / "smollm2")}
    )


def run(config: UnifiedConfig) -> dict[str, Any]:
    """Train, and measure before and after; `curve` has what was logged on the way."""
    trainer: Any = create_rl_trainer(config=config, backend="trl")
    before = trainer.evaluate()
    began = time.monotonic()
    if trainer.train().preempted:
        sys.exit("stopped on request")
    seconds = time.monotonic() - began
    after = trainer.evaluate()
    curve = [line for line in trainer.ensure_loop().state.log_history if "reward_mean" in line]
    seed = config.train.seed
    return {"seed": seed, "before": before, "after": after, "seconds": seconds, "curve": curve}


def show(what: str, result: dict[str, Any], *metrics: str) -> None:
    """One row of a table."""
    both = " | ".join(
        f"{result[when][f'eval_{metric}']:.3f}"
        for metric in metrics
        for when in ("before", "after")
    )
    kl = result["curve"][-1].get("kl")
    told = "no reference" if kl is None else f"{kl:.2f}"
    print(f"| {what} | {result['seed']} | {both} | {told} | {result['seconds']:.0f} |", flush=True)
