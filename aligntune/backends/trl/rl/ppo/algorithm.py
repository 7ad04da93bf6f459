"""Proximal policy optimisation on transformers' Trainer.

The Trainer's loader counts the forward passes of one rollout, so that its epoch is a rollout. At
the first pass a new rollout is made; every pass learns from the rows that its number stands for.
Optimizer, schedule, accumulation, DDP, callbacks and checkpoints are the Trainer's own.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from aligntune.backends.trl.rl.ppo.advantages import experience, explained_variance
from aligntune.backends.trl.rl.ppo.judging import completion_rows, decode_batch, mean_metrics
from aligntune.backends.trl.rl.ppo.kl import KLController
from aligntune.backends.trl.rl.ppo.losses import LossSums, loss_sums
from aligntune.backends.trl.rl.ppo.prompts import Row, endless
from aligntune.backends.trl.rl.ppo.rollout import Answers, Rollout, Sampler, seeded
from aligntune.backends.trl.rl.ppo.steps import StepModel
from aligntune.backends.trl.rl.ppo.sums import moments
from aligntune.backends.trl.rl.ppo.value import PolicyAndValue, Predictions
from aligntune.core.rl.config import PPOConfig
from aligntune.rewards.scoring import Reward, score, score_in_batches
from aligntune.training.kl_guard import KLGuard

VALUE_FILE = "value.safetensors"
"""The value model in a checkpoint, beside the policy."""
ROLLOUTS, EVALUATIONS = 0, 1
"""What random numbers are for; a part of their seed."""


class PPO(Trainer):  # type: ignore[misc]  # transformers is not typed
    """Samples answers, scores them, and makes the better ones likelier."""

    model: PolicyAndValue

    def __init__(
        self,
        *,
        settings: PPOConfig,
        step_model: StepModel,
        sampler: Sampler,
        rewards: Sequence[Reward],
        reference: PolicyAndValue | None,
        **trainer: Any,
    ) -> None:
        """Prepare; nothing is sampled yet.

        Args:
            settings: The algorithm's.
            step_model: How rollouts are cut into steps.
            sampler: Makes answers.
            rewards: Score them.
            reference: What the policy is held to; None: the policy without its adapters.
            **trainer: `train_dataset` and `eval_dataset` hold prompts.
        """
        self.settings = settings
        self.step_model = step_model
        self.sampler = sampler
        self.rewards = rewards
        self.controller = KLController.of(settings.kl)
        self.guard = KLGuard(settings.kl_limit, "ppo.klLimit", "raise ppo.kl.coefficient")
        self.rollout: Rollout | None = None
        self.told: list[dict[str, float]] = []
        """What was measured of each rollout since the last log line."""
        self.newest: list[dict[str, Any]] = []
        """This process's answers of the newest rollout, to be read."""
        self._prompts: Iterator[Row] = iter(())
        self._next_rollout: int | None = None
        """The one that `_prompts` stands before."""
        super().__init__(**trainer)
        self.learned = torch.zeros(len(LossSums._fields), device=self.args.device)
        """This process's `LossSums` since the last log line."""
        if reference is not None:
            reference.to(self.args.device).eval().requires_grad_(requires_grad=False)
        self.reference = reference

    def get_train_dataloader(self) -> DataLoader[int]:
        """The numbers of a rollout's forward passes, in their order."""
        passes: Any = range(self.step_model.passes_per_rollout)
        return DataLoader(passes, batch_size=1, collate_fn=lambda numbers: numbers[0])

    def get_batch_samples(
        self,
        epoch_iterator: Iterator[int],
        num_batches: int,
        device: torch.device,  # noqa: ARG002 - batches are moved when they are used
    ) -> tuple[list[dict[str, Tensor]], None]:
        """The rows of the next optimizer step; before the first of a rollout it is made.

        So it is in the middle of one after a forced start from other processes' checkpoint.
        """
        passes = list(islice(epoch_iterator, num_batches))
        if passes[0] == 0 or self.rollout is None:
            self.rollout = self.roll_out(
                self.state.global_step // self.step_model.steps_per_rollout
            )
        return [self.rollout.batch(number, self.step_model.batch_size) for number in passes], None

    def roll_out(self, number: int) -> Rollout:
        """Sample and score answers, and work out what they teach.

        Args:
            number: Rollouts before this one; with the seed it decides prompts, answers and order.

        Raises:
            LossDivergedError: The policy has left the reference for good.
            ConfigError: A reward function fails.
        """
        settings, rows = self.settings, self._draw(number)
        with torch.no_grad(), seeded(self.args.device, *self._key(ROLLOUTS, number)):
            answers = self.answer(rows)
            batch = decode_batch(rows, answers, self.processing_class)
            scores = score(self.rewards, batch)
            before, reference_logp_NT = self._read(answers)
            order_EN = torch.stack([torch.randperm(len(rows)) for _ in range(settings.epochs)])
        mask_NT = answers.mask_NT
        score_N = torch.tensor(scores.total, device=mask_NT.device)
        score_N -= settings.missing_eos_penalty * ~answers.ended_N
        coefficient = self.controller.coefficient
        learned = experience(
            score_N=score_N,
            logp_NT=before.logp_BT,
            reference_logp_NT=reference_logp_NT,
            value_NT=before.value_BT,
            mask_NT=mask_NT,
            settings=settings,
            coefficient=coefficient,
            total=self._total,
        )
        known = moments(learned.kl_NT, mask_NT, self._total)
        kl_per_answer = (known.mean * known.number).item() / self.step_model.prompts
        self.guard = self.guard.after(known.mean.item(), self.state.global_step)
        self.controller = self.controller.after(kl_per_answer, self.step_model.prompts)
        told = mean_metrics(scores, answers, [reward.name for reward in self.rewards], self._total)
        told["reward_mean"] = told.pop("reward")
        told |= {
            "kl": known.mean.item(),
            "kl_per_answer": kl_per_answer,
            "kl_coefficient": coefficient,
            "explained_variance": explained_variance(
                before.value_BT, learned.return_NT, mask_NT, self._total
            ),
        }
        self.told.append(told)
        advantage_N = learned.advantage_NT.sum(1) / mask_NT.sum(1)
        self.newest = completion_rows(batch, scores, advantage_N.tolist(), self.state.global_step)
        return Rollout(
            input_ids_NS=answers.input_ids_NS,
            attention_mask_NS=answers.attention_mask_NS,
            mask_NT=mask_NT,
            logp_NT=before.logp_BT,
            value_NT=before.value_BT,
            advantage_NT=learned.advantage_NT,
            return_NT=learned.return_NT,
            order_EN=order_EN,
            tokens=known.number.float(),
        )

    def answer(self, rows: Sequence[Row]) -> Answers:
        """The answers of a rollout."""
        return self._sample(rows, self.step_model.batch_size)

    def _draw(self, number: int) -> list[Row]:
        """This process's prompts of a rollout."""
        prompts, processes = self.step_model.prompts, self.step_model.processes
        if number != self._next_rollout:
            self._prompts = endless(self.train_dataset, self.args.seed, number * prompts)
        self._next_rollout = number + 1
        return list(islice(self._prompts, prompts))[self.args.process_index :: processes]

    def _sample(
        self,
        rows: Sequence[Row],
        batch_size: int,
        before_batch: Callable[[], None] = lambda: None,
    ) -> Answers:
        self.model.eval()
        prompts = [row["prompt_ids"] for row in rows]
        with self.accelerator.autocast():
            return self.sampler.sample(self.model.policy, prompts, batch_size, before_batch)

    def _read(self, answers: Answers) -> tuple[Predictions, Tensor]:
        """What policy, value model and reference say of the answers' tokens, all N x T."""
        width, size = answers.mask_NT.shape[1], self.step_model.batch_size
        own, frozen = [], []
        with self.accelerator.autocast():
            for ids, there in zip(
                torch.split(answers.input_ids_NS, size),
                torch.split(answers.attention_mask_NS, size),
                strict=True,
            ):
                own.append(self.model(ids, there, width))
                if self.reference is not None:
                    frozen.append(self.reference(ids, there, width).logp_BT)
                else:
                    with self.model.policy.disable_adapter():
                        frozen.append(self.model(ids, there, width).logp_BT)
        return Predictions(*map(torch.cat, zip(*own, strict=True))), torch.cat(frozen)

    def _key(self, purpose: int, number: int) -> tuple[int, ...]:
        return self.args.seed, purpose, number, self.args.process_index

    def _total(self, values: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(values, "sum")
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,  # noqa: ARG002 - nobody asks
        num_items_in_batch: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """This batch's part of the step's loss.

        Each token counts 1 / tokens of a minibatch of average length: the mean over the minibatches
        of an epoch is then the mean over the tokens of the whole rollout, however it is cut.
        """
        assert self.rollout is not None  # noqa: S101 - the inputs come from it
        now: Predictions = model(
            inputs["input_ids"], inputs["attention_mask"], inputs["mask"].shape[1]
        )
        sums = loss_sums(now, inputs, self.settings)
        self.learned += torch.stack([part.detach().float() for part in sums])
        loss: Tensor = sums.policy + self.settings.value_coefficient * sums.value
        share = self.step_model.minibatches / self.rollout.tokens
        # Trainer divides by the passes of a step, the average of DDP's gradients by the processes
        divided: int = self.current_gradient_accumulation_steps * self.step_model.processes
        return loss * share * divided

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was measured since the last line of the training log."""
        if "loss" in logs:
            sums = LossSums(*self._total(self.learned))
            logs |= {
                "policy_loss": (sums.policy / sums.tokens).item(),
                "value_loss": (sums.value / sums.tokens).item(),
                "entropy": (sums.entropy / sums.tokens).item(),
                "clip_fraction": (sums.clipped / sums.tokens).item(),
                "value_clip_fraction": (sums.value_clipped / sums.tokens).item(),
            }
            for name in {name: None for told in self.told for name in told}:
                values = [told[name] for told in self.told if name in told]
                logs[name] = sum(values) / len(values)
            self.learned.zero_()
            self.told = []
        super().log(logs, start_time)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Row]:
        """This process's prompts, a batch at a time."""
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        own: Any = list(rows)[self.args.process_index :: self.step_model.processes]
        return DataLoader(own, batch_size=self.args.eval_batch_size, collate_fn=list)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Row],
        description: str,  # noqa: ARG002 - the Trainer's words for its progress bar
        prediction_loss_only: bool | None = None,  # noqa: ARG002
        ignore_keys: list[str] | None = None,  # noqa: ARG002
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Mean reward of answers to held-out prompts.

        They are sampled as in training, each time with the same random numbers: what changes
        between two evaluations is the policy.
        """
        rows: list[Row] = [row for batch in dataloader for row in batch]
        own = torch.tensor([len(dataloader)], device=self.args.device)
        fewer = int(self.accelerator.gather(own).max()) - len(dataloader)
        size = self.args.eval_batch_size
        with torch.no_grad(), seeded(self.args.device, *self._key(EVALUATIONS, 0)):
            answers = self._sample(rows, size, self.check_preemption)
            self._check_preemption_with_others(fewer)
        batch = decode_batch(rows, answers, self.processing_class)
        scores = score_in_batches(self.rewards, batch, size, self.check_preemption)
        self._check_preemption_with_others(fewer)
        told = mean_metrics(scores, answers, [reward.name for reward in self.rewards], self._total)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in told.items()}
        return EvalLoopOutput(None, None, metrics, len(rows) * self.step_model.processes)

    def _check_preemption_with_others(self, batches: int) -> None:
        """Ask as often as the processes do that have so many batches more."""
        for _ in range(batches):
            self.check_preemption()

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """The policy as transformers or PEFT write it, the value model beside it."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        weights = state_dict and {
            name.removeprefix("policy."): part
            for name, part in state_dict.items()
            if name.startswith("policy.")
        }
        self.model.policy.save_pretrained(folder, state_dict=weights)
        self.processing_class.save_pretrained(folder)
        save_file(self.model.value_state(), folder / VALUE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        super()._load_from_checkpoint(resume_from_checkpoint, self.model.policy)
        self.model.load_value_state(load_file(Path(resume_from_checkpoint) / VALUE_FILE))

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def memory(self) -> dict[str, Any]:
        """What this process must know to go on exactly, besides what the Trainer saves."""
        half_used = self.state.global_step % self.step_model.steps_per_rollout
        return {
            "processes": self.step_model.processes,
            "rollout": self.rollout._asdict() if self.rollout and half_used else None,
            "kl_coefficient": self.controller.coefficient,
            "rollouts_beyond_limit": self.guard.beyond,
            "learned": self.learned,
            "told": self.told,
        }

    def remember(self, memory: dict[str, Any]) -> None:
        """Take over what `memory` gave."""
        self.rollout = Rollout(**memory["rollout"]) if memory["rollout"] else None
        self.controller = self.controller._replace(coefficient=memory["kl_coefficient"])
        self.guard = self.guard._replace(beyond=memory["rollouts_beyond_limit"])
        self.learned.copy_(memory["learned"])
        self.told = memory["told"]
