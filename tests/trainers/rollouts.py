"""Training on recorded rollouts, in one process or several, so that only the split differs."""

import multiprocessing
import os
import random
from pathlib import Path
from typing import Any

from aligntune.core.rl.config import UnifiedConfig
from tests.trainers.tiny import rank_environments

FORKS = multiprocessing.get_context("forkserver")


def train_recorded(
    config: UnifiedConfig, losses: list[str], folder: Path, *, processes: int
) -> None:
    """Train once with each loss, into a folder of its name below the config's."""
    ranks = [
        FORKS.Process(
            target=_train,
            args=(config.model_dump(mode="json"), losses, folder / f"recorded-{rank}.log", env),
        )
        for rank, env in enumerate(rank_environments(processes))
    ]
    for rank in ranks:
        rank.start()
    for number, rank in enumerate(ranks):
        rank.join(timeout=240)
        assert rank.exitcode == 0, (folder / f"recorded-{number}.log").read_text()


def _train(config: dict[str, Any], losses: list[str], log: Path, env: dict[str, str]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(env)
    from aligntune.backends.trl.rl.grpo.grpo import TRLGRPOTrainer

    for loss in losses:
        document = config | {"outputDir": str(Path(config["outputDir"]) / loss)}
        document["grpo"] = document["grpo"] | {"loss": loss}
        trainer = TRLGRPOTrainer(UnifiedConfig.model_validate(document))
        loop: Any = trainer.ensure_loop()
        loop.rollout_func = recorded
        trainer.train()


def recorded(prompts: list[Any], loop: Any) -> dict[str, Any]:
    """TRL's `rollout_func`: the n-th answer to a prompt is always the same, whoever asks."""
    tokens = len(loop.processing_class)
    first = loop.accelerator.process_index * len(prompts)
    completions = []
    for place, prompt in enumerate(prompts, start=first):
        chance = random.Random(f"{prompt[-1]['content']} {place % loop.num_generations}")
        length = chance.randint(3, 11)
        completions.append([chance.randrange(3, tokens) for _ in range(length)])
    prompt_ids = loop.processing_class.apply_chat_template(
        prompts, add_generation_prompt=True, return_dict=False
    )
    return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": None}
