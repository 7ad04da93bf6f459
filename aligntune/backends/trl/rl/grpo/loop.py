"""TRL's GRPO in our loop: our rewards, exact resume, a guard on the KL, and completions to read."""

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from accelerate.utils import gather
from transformers.trainer_utils import EvalLoopOutput
from trl.trainer.utils import RepeatSampler

from aligntune.backends.trl.rl.rollouts import read_rollout
from aligntune.data.prompts import columns_of
from aligntune.rewards.scoring import Batch, Reward, score
from aligntune.training import completions
from aligntune.training.kl_guard import KLGuard
from aligntune.training.loop import RunLoop

METRICS = {
    "reward": "reward_mean",
    "frac_reward_zero_std": "groups_without_spread",
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "completions_cut",
    "clip_ratio/region_mean": "clip_fraction",
    "clip_ratio/low_mean": "clip_fraction_low",
    "clip_ratio/high_mean": "clip_fraction_high",
    "cispo_clip_ratio": "clip_fraction",
}
"""TRL's names -> ours."""
NOT_LOGGED = ("completions/m", "clip_ratio/", "step_time")
"""Beginnings of what TRL measures besides; the minimum of lengths and the like."""

_log = logging.getLogger(__name__)


class Prompts(RepeatSampler):  # type: ignore[misc]  # trl is not typed
    """TRL's order of prompts; a resumed run finds it again in every epoch, not only the first."""

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of `epoch`, counted from 0."""
        self.generator.manual_seed(self.seed)
        for _ in range(epoch):
            torch.randperm(self.num_samples, generator=self.generator)


class GRPOLoop(RunLoop, trl.GRPOTrainer):  # type: ignore[misc]  # trl is not typed
    """TRL's GRPO in our loop."""

    def __init__(
        self,
        *,
        rewards: Sequence[Reward],
        beta: float,
        reference: Any,
        kl_limit: float,
        **trainer: Any,
    ) -> None:
        """Make the trainer.

        Args:
            rewards: What completions are scored by.
            beta: Weight of the KL penalty.
            reference: The frozen model that the policy is held to; None: its base without adapters,
                or none at all where `beta` is 0. (TRL would load the policy's anew, and always from
                the main revision.)
            kl_limit: Nats per token above which a run ends after a few steps.
            **trainer: What the TRL trainer takes.
        """
        self._rewards = rewards
        self._guard = KLGuard(kl_limit, "grpo.klLimit", "raise grpo.beta")
        self._prompts: Prompts | None = None
        super().__init__(reward_funcs=[reward.score for reward in rewards], **trainer)
        self.reward_func_names = [reward.name for reward in rewards]
        self.reward_weights = torch.tensor([reward.weight for reward in rewards])
        self.beta = beta
        if reference is not None:
            self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _get_train_sampler(self, dataset: Any = None) -> Prompts:
        self._prompts = Prompts(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )
        return self._prompts

    def _run_epoch(self, **epoch: Any) -> None:
        if self._prompts is not None:
            self._prompts.set_epoch(epoch["epoch"])
        super()._run_epoch(**epoch)

    def count(self, inputs: Any) -> None:
        """Prompts come in here; `compute_loss` sees what is trained on."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        *more: Any,
        **named: Any,
    ) -> torch.Tensor:
        """TRL's loss; counts the tokens and completions that it is of."""
        tokens = inputs["prompt_mask"].sum() + inputs["completion_mask"].sum()
        self.add_to_sums(tokens=tokens, samples=len(inputs["prompt_ids"]))
        loss: torch.Tensor = super().compute_loss(model, inputs, *more, **named)
        return loss

    def _generate(self, prompts: Any) -> Any:
        with self.progress.doing("generating"):  # scoring is not: a hang in it is to be found
            return super()._generate(prompts)

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: Any,
        _completions: Any,
        completion_ids: list[list[int]],
    ) -> torch.Tensor:
        """The rewards of all processes' completions, one column per function; NaN: none."""
        texts = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        scores = score(
            self._rewards, Batch(prompts, texts, columns_of([row["row"] for row in inputs]))
        )
        each = [
            [math.nan if value is None else value for value in values]
            for values in scores.each.values()
        ]
        rewards: torch.Tensor = gather(torch.tensor(each, device=self.args.device).T.contiguous())
        return rewards

    @property
    def strayed(self) -> bool:
        """The policy is beyond the KL limit."""
        return self._guard.beyond > 0

    def _end_step(self, grad_norm: float, learning_rate: float) -> None:
        super()._end_step(grad_norm, learning_rate)
        if self.beta:
            seen = self._metrics["train"]["kl"][-self.args.gradient_accumulation_steps :]
            self._guard = self._guard.after(math.fsum(seen) / len(seen), self.state.global_step)
            if self.strayed and not self.preempted:
                self.control.should_save = False  # the last checkpoint is to be a good one

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass on what TRL measures, by our names, and the completions of the newest rollout."""
        if self.model.training:
            self._metrics["train"] = _renamed(self._metrics["train"])
            if self.is_world_process_zero() and self._logs["completion"]:
                rows = self._rows()
                completions.write(Path(self.args.output_dir), self.state.global_step, rows)
                _log.info("step %d:\n%s", self.state.global_step, completions.shown(rows))
        super().log(logs, start_time)

    def _rows(self) -> list[completions.Row]:
        """The newest rollout, over all processes."""
        names = self.reward_func_names
        columns = zip(*(self._logs["rewards"][name] for name in names), strict=True)
        weights = self.reward_weights.tolist()
        rows = []
        for prompt, completion, advantage, values in zip(
            self._logs["prompt"], self._logs["completion"], self._logs["advantages"], columns,
            strict=True,
        ):  # fmt: skip
            given = [None if math.isnan(value) else value for value in values]
            total = math.fsum(w * v for w, v in zip(weights, given, strict=True) if v is not None)
            rewards = {f"reward_{name}": v for name, v in zip(names, given, strict=True)}
            rows.append(
                {"step": self.state.global_step, "prompt": prompt, "completion": completion}
                | {"reward": total, **rewards, "advantage": advantage}
            )
        return rows

    def save_more(self, folder: Path) -> None:
        """Write this process's rollout, which several steps learn from, and what it counts."""
        state = {
            "processes": self.args.world_size,
            "step": self._step,
            "rollout": None if self._rollout_is_used_up() else self._buffered_inputs,
            "metrics": dict(self._metrics["train"]),
            "logs": {
                name: list(self._logs[name]) for name in ("prompt", "completion", "advantages")
            },
            "rewards": {name: list(values) for name, values in self._logs["rewards"].items()},
            "steps_beyond_limit": self._guard.beyond,
        }
        torch.save(state, self._state_file(folder))

    def load_more(self, folder: Path) -> None:
        """Go on with the rollout of the checkpoint, unless it was shared out otherwise."""
        file = self._state_file(folder)
        state = read_rollout(file, self.args.world_size, self.args.device.type)
        if state is None:
            return
        self._step = state["step"]
        self._buffered_inputs = state["rollout"]
        self._metrics["train"].update(state["metrics"])
        for name, values in state["logs"].items():
            self._logs[name].extend(values)
        for name, values in state["rewards"].items():
            self._logs["rewards"][name].extend(values)
        self._guard = self._guard._replace(beyond=state["steps_beyond_limit"])

    def _state_file(self, folder: Path) -> Path:
        return folder / f"rollout-{self.args.process_index}.pt"

    def _rollout_is_used_up(self) -> bool:
        uses = self.args.steps_per_generation * self.num_iterations
        return bool(self._step % uses == 0)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> list[dict[str, Any]]:
        """The rows to measure, as a list; `evaluation_loop` shares them out."""
        return list(self.eval_dataset if eval_dataset is None else eval_dataset)

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader: list[dict[str, Any]],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Score one sampled completion per prompt; every evaluation draws with the same seed.

        The random numbers of training are left as they are. The last of a process's prompts may be
        repeated, since all must ask equally often, but count once.
        """
        del description, prediction_loss_only, ignore_keys
        rows, world, rank = dataloader, self.args.world_size, self.args.process_index
        size, share = self.args.per_device_eval_batch_size, -(-len(rows) // world)
        self.model.eval()
        sums = torch.zeros(2 + 2 * len(self._rewards), dtype=torch.float64)
        gpu = self.args.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.args.device] if gpu else []):
            torch.manual_seed(self.args.seed + rank)
            for start in range(0, share, size):
                self.check_preemption()
                mine = [turn * world + rank for turn in range(start, min(start + size, share))]
                asked = [rows[index % len(rows)] for index in mine]
                sums += self._measured(asked, sum(index < len(rows) for index in mine))
        total, tokens, *each = self.accelerator.reduce(
            sums.float().to(self.args.device), "sum"
        ).tolist()
        metrics = {"reward": total / len(rows), "completion_length": tokens / len(rows)}
        for reward, value, count in zip(self._rewards, each[::2], each[1::2], strict=True):
            if count:
                metrics[f"reward_{reward.name}"] = value / count
        return EvalLoopOutput(
            predictions=None,
            label_ids=None,
            metrics={f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
            num_samples=len(rows),
        )

    def _measured(self, asked: list[dict[str, Any]], counted: int) -> torch.Tensor:
        """Sums over the first `counted` rows: reward, tokens, each function's values and count."""
        prompts = [row["prompt"] for row in asked]
        ids, _ = self._generate_single_turn([row["prompt_ids"] for row in asked], None, {}, 1)
        texts = self.processing_class.batch_decode(ids, skip_special_tokens=True)
        scores = score(
            self._rewards, Batch(prompts, texts, columns_of([row["row"] for row in asked]))
        )
        sums = [math.fsum(scores.total[:counted]), sum(map(len, ids[:counted]))]
        for values in scores.each.values():
            applying = [value for value in values[:counted] if value is not None]
            sums += [math.fsum(applying), len(applying)]
        return torch.tensor(sums, dtype=torch.float64)


def _renamed(metrics: dict[str, list[float]]) -> dict[str, list[float]]:
    """TRL's running lists by our names, and without those that are not logged."""
    renamed: dict[str, list[float]] = defaultdict(list)
    for name, values in metrics.items():
        if name in METRICS or not name.startswith(NOT_LOGGED):
            renamed[_ours(name)] = values
    return renamed


def _ours(name: str) -> str:
    if name.startswith("rewards/"):
        function, _, kind = name.removeprefix("rewards/").rpartition("/")
        return f"reward_{function}" if kind == "mean" else f"reward_{function}_{kind}"
    return METRICS.get(name, name)
