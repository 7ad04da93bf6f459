"""PPO, end to end on a tiny model, in this process or in forked ranks."""

import json
import math
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

from aligntune.api.exit_codes import ExitCode
from aligntune.backends.trl.rl.ppo.ppo import TRLPPOTrainer
from aligntune.backends.trl.rl.ppo.prompts import endless
from aligntune.core.backend_factory import check_supported, create_rl_trainer
from aligntune.core.errors import ConfigError, LossDivergedError
from aligntune.core.rl.config import UnifiedConfig
from aligntune.rewards.scoring import Batch
from aligntune.training.checkpoints import MANIFEST
from tests.trainers.callbacks import BreakAt, StopAt, activities, asked_to_stop_in_evaluation
from tests.trainers.stopping_reward import stopping
from tests.trainers.tiny import curve, launch, losses, merge, sums, write_jsonl, write_run

MakePPO = Callable[..., UnifiedConfig]


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with answers: train.jsonl (20 rows) and test.jsonl (6 rows)."""
    folder = tmp_path_factory.mktemp("questions")
    for name, count in (("train", 20), ("test", 6)):
        rows = [{"prompt": row["prompt"], "answer": row["completion"]} for row in sums(count)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


@pytest.fixture
def ppo(tiny_model: Path, questions: Path, tmp_path: Path) -> MakePPO:
    """Makes a config of 3 rollouts of 4 steps; keyword arguments are sections to lay over it."""

    def make(**sections: Any) -> UnifiedConfig:
        base = {
            "algo": "ppo",
            "model": {"name": str(tiny_model)},
            "datasets": [{"name": str(questions)}],
            "rewards": [{"name": "tests.trainers.stopping_reward:vowels"}],
            "ppo": {"rollout_batch_size": 8, "epochs": 2, "minibatches": 2},
            "generation": {"max_new_tokens": 6},
            "train": {"max_steps": 12, "learning_rate": 1e-2, "per_device_batch_size": 2},
            "logging": {"every_steps": 4},
            "output_dir": str(tmp_path / "out"),
        }
        return UnifiedConfig.model_validate(merge(base, sections))

    return make


def elsewhere(config: UnifiedConfig, name: str) -> UnifiedConfig:
    return config.model_copy(update={"output_dir": f"{config.output_dir}-{name}"})


def test_the_mean_reward_rises_and_the_metrics_say_how(ppo: MakePPO, questions: Path) -> None:
    settings = ppo(
        model={"tuning": "full"},
        ppo={"rollout_batch_size": 32, "epochs": 4, "minibatches": 1, "kl": {"coefficient": 0.0}},
        train={"max_steps": 60, "learning_rate": 1e-2, "per_device_batch_size": 32},
        evaluation={"datasets": [{"name": str(questions)}]},
    )
    trainer = TRLPPOTrainer(settings)
    before = trainer.evaluate()
    result = trainer.train()
    after = trainer.evaluate()
    assert after["eval_reward"] > 2 * before["eval_reward"]
    assert result.metrics["kl"] > 0.1
    assert {
        "policy_loss", "value_loss", "kl", "kl_per_answer", "kl_coefficient", "entropy",
        "clip_fraction", "value_clip_fraction", "explained_variance", "reward_mean", "reward_std",
        "reward_vowels", "completion_length", "missing_eos",
    } <= set(result.metrics)  # fmt: skip
    assert result.metrics["reward_mean"] == pytest.approx(result.metrics["reward_vowels"])
    assert 0 < result.metrics["clip_fraction"] < 1
    assert (result.step, result.total_steps, result.epoch) == (60, 60, 15 * 32 / 20)
    assert {"eval_reward", "eval_reward_std", "eval_reward_vowels", "eval_missing_eos"} <= set(
        after
    )
    newest = max((Path(settings.output_dir) / "completions").iterdir())
    rows = [json.loads(line) for line in newest.read_text().splitlines()]
    assert (newest.name, len(rows)) == ("step-00000060.jsonl", 32)
    assert {"step", "prompt", "completion", "reward", "reward_vowels", "advantage"} == set(rows[0])


@pytest.mark.parametrize("reference", ["adapters off", "a copy", "named"])
def test_a_policy_that_has_not_moved_is_no_distance_from_its_reference(
    ppo: MakePPO, tiny_model: Path, reference: str
) -> None:
    sections: dict[str, Any] = {
        "adapters off": {},
        "a copy": {"model": {"tuning": "full"}},
        "named": {"reference_model": {"name": str(tiny_model)}},
    }[reference]
    settings = ppo(**sections, train={"max_steps": 4, "learning_rate": 1e-12})
    metrics = TRLPPOTrainer(settings).train().metrics
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["policy_loss"] == pytest.approx(0, abs=1e-5)  # ratios of 1


def test_another_reference_is_another_distance(
    ppo: MakePPO, tiny_model: Path, tmp_path: Path
) -> None:
    other = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        other.model.embed_tokens.weight.mul_(3)
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "other")
    settings = ppo(
        reference_model={"name": str(tmp_path / "other")},
        train={"max_steps": 4, "learning_rate": 1e-12},
    )
    assert TRLPPOTrainer(settings).train().metrics["kl"] > 0.01


def test_a_reward_model_scores_the_answers(ppo: MakePPO, tiny_model: Path, tmp_path: Path) -> None:
    judge = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    judge.save_pretrained(tmp_path / "judge")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "judge")
    settings = ppo(rewards=[], reward_model={"name": str(tmp_path / "judge")})
    loop: Any = TRLPPOTrainer(settings).ensure_loop()
    loop.roll_out(0)
    [told] = loop.told
    assert told["reward_mean"] == pytest.approx(told["reward_reward_model"])
    assert told["reward_std"] > 0


@pytest.mark.parametrize(
    ("sections", "step"),
    [
        ({}, 6),
        ({"model": {"tuning": "full"}, "ppo": {"kl": {"target": 0.5, "horizon": 50}}}, 6),
        ({"ppo": {"value_model": "separate", "whiten_rewards": True}}, 8),
    ],
    ids=["lora, within a rollout", "full, adaptive KL", "separate value model, between rollouts"],
)
def test_after_sigterm_a_resumed_run_repeats_the_uninterrupted_one(
    ppo: MakePPO, sections: dict[str, Any], step: int
) -> None:
    whole = ppo(**sections)
    uninterrupted = TRLPPOTrainer(whole).train()
    parts = elsewhere(whole, "parts")
    first = TRLPPOTrainer(parts, callbacks=[StopAt(step)]).train()
    assert (first.preempted, first.step) == (True, step)
    second = TRLPPOTrainer(parts).train()
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))
    assert len(set(losses(Path(whole.output_dir)))) == 12
    assert second.metrics == uninterrupted.metrics
    assert (second.samples, second.tokens) == (uninterrupted.samples, uninterrupted.tokens)


def test_a_checkpoint_of_other_processes_goes_on_with_a_new_rollout_where_that_is_forced(
    ppo: MakePPO, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ppo(checkpoint={"every_steps": 6, "resume": "force"})
    TRLPPOTrainer(settings).train()
    folder = Path(settings.output_dir)
    shutil.rmtree(folder / "checkpoint-12")
    manifest = json.loads((folder / "checkpoint-6" / MANIFEST).read_text())
    del manifest["files"]["ppo-0.pt"]  # as other processes would have left it
    (folder / "checkpoint-6" / "ppo-0.pt").unlink()
    (folder / "checkpoint-6" / MANIFEST).write_text(json.dumps(manifest | {"worldSize": 2}))
    assert TRLPPOTrainer(settings).train().step == 12
    assert "is of other processes: a new rollout begins" in caplog.text


def test_two_ranks_one_of_them_stopped_during_a_rollout_repeat_the_uninterrupted_run(
    ppo: MakePPO, tmp_path: Path
) -> None:
    never = tmp_path / "never"
    never.touch()
    whole = ppo(rewards=[stopping(never)])
    complete = write_run(tmp_path / "whole.json", whole, processesPerNode=2)
    assert [rank.wait() for rank in launch(complete, tmp_path, 2)] == [0, 0]
    parts = elsewhere(ppo(rewards=[stopping(tmp_path / "once")]), "parts")
    run = write_run(tmp_path / "parts.json", parts, processesPerNode=2)
    stopped = [rank.wait() for rank in launch(run, tmp_path, 2)]
    assert stopped == [ExitCode.PREEMPTED, ExitCode.PREEMPTED]
    assert len(curve(Path(parts.output_dir))) == 5  # the first step after the second rollout
    assert [rank.wait() for rank in launch(run, tmp_path, 2)] == [0, 0]
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))


def test_a_run_asked_to_stop_while_it_evaluates_stops_there(ppo: MakePPO, questions: Path) -> None:
    settings = ppo(evaluation={"datasets": [{"name": str(questions)}], "every_steps": 2})
    stopped = TRLPPOTrainer(settings, asked_to_stop_in_evaluation()).train()
    assert (stopped.preempted, stopped.step) == (True, 2)


def test_two_ranks_evaluate_a_number_of_prompts_that_does_not_divide_by_two(
    ppo: MakePPO, tmp_path: Path
) -> None:
    """Of 5 prompts one rank has 3, so a batch more; before each they ask whether to stop."""
    rows = [{"prompt": row["prompt"], "answer": row["completion"]} for row in sums(5)]
    held_out = str(write_jsonl(tmp_path / "held-out.jsonl", rows))
    settings = ppo(
        train={"max_steps": 4},
        evaluation={"datasets": [{"name": held_out}], "per_device_batch_size": 1},
    )
    run = write_run(tmp_path / "run.json", settings, processesPerNode=2)
    assert [rank.wait() for rank in launch(run, tmp_path, 2)] == [0, 0]


def test_two_ranks_and_smaller_passes_train_as_one_process_with_the_same_answers(
    ppo: MakePPO, tmp_path: Path
) -> None:
    """The likeliest token is sampled, so that all have the same answers: one minibatch."""
    greedy = {
        "generation": {"top_k": 1},
        "ppo": {"minibatches": 1, "epochs": 3, "whiten_rewards": True},
    }
    one = ppo(**greedy, train={"per_device_batch_size": 8})
    TRLPPOTrainer(one).train()
    smaller = elsewhere(ppo(**greedy, train={"per_device_batch_size": 1}), "smaller")
    TRLPPOTrainer(smaller).train()
    two = elsewhere(ppo(**greedy, train={"per_device_batch_size": 2}), "two")
    run = write_run(tmp_path / "two.json", two, processesPerNode=2)
    assert [rank.wait() for rank in launch(run, tmp_path, 2)] == [0, 0]
    expected = curve(Path(one.output_dir))
    assert max(abs(line["loss"]) for line in expected) > 0.01
    for other in (smaller, two):
        for ours, theirs in zip(curve(Path(other.output_dir)), expected, strict=True):
            assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-5)


def test_the_mean_over_the_minibatches_is_the_loss_of_the_whole_rollout(ppo: MakePPO) -> None:
    """At weights that stay where they are; answers are of different lengths."""
    still = {"train": {"max_steps": 4, "learning_rate": 1e-12, "per_device_batch_size": 2}}
    whole = ppo(**still, ppo={"minibatches": 1, "epochs": 4})
    TRLPPOTrainer(whole).train()
    parts = elsewhere(ppo(**still, ppo={"minibatches": 4, "epochs": 1}), "parts")
    TRLPPOTrainer(parts).train()
    pieces, total = losses(Path(parts.output_dir)), losses(Path(whole.output_dir))
    assert max(pieces) - min(pieces) > 1e-3
    assert total == pytest.approx([total[0]] * 4, rel=1e-4)
    assert math.fsum(pieces) / 4 == pytest.approx(total[0], rel=1e-4)


def test_a_diverged_loss_ends_the_run_and_keeps_the_last_good_checkpoint(ppo: MakePPO) -> None:
    settings = ppo(checkpoint={"every_steps": 2})
    with pytest.raises(LossDivergedError, match="step 6: the loss"):
        TRLPPOTrainer(settings, callbacks=[BreakAt(6)]).train()
    assert checkpoints(settings) == ["checkpoint-2", "checkpoint-4"]


def test_a_policy_broken_between_two_steps_ends_the_run_too(ppo: MakePPO) -> None:
    class BreakAfter(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **more: Any) -> None:
            if state.global_step == 4:
                with torch.no_grad():
                    next(p for p in more["model"].parameters() if p.requires_grad).fill_(math.nan)

    with pytest.raises(LossDivergedError, match=r"step 4: .* no longer finite numbers"):
        TRLPPOTrainer(ppo(), callbacks=[BreakAfter()]).train()


def test_a_policy_that_left_its_reference_ends_the_run_and_no_checkpoint_is_written_of_it(
    ppo: MakePPO,
) -> None:
    class BlowUpAt(TrainerCallback):
        def on_step_begin(self, _args: Any, state: Any, _control: Any, **more: Any) -> None:
            if state.global_step == 3:
                with torch.no_grad():
                    more["model"].policy.model.embed_tokens.weight.mul_(20)

    settings = ppo(
        model={"tuning": "full"},
        ppo={"kl_limit": 1},
        train={"max_steps": 40},
        checkpoint={"every_steps": 2},
    )
    with pytest.raises(LossDivergedError, match=r"step 12: .* above ppo\.klLimit 1 3 times"):
        TRLPPOTrainer(settings, callbacks=[BlowUpAt()]).train()
    assert checkpoints(settings) == ["checkpoint-2", "checkpoint-4"]


def checkpoints(settings: UnifiedConfig) -> list[str]:
    return sorted(p.name for p in Path(settings.output_dir).glob("checkpoint-*"))


@pytest.mark.parametrize("value_model", ["head", "separate"])
def test_the_policy_alone_is_saved_and_the_value_model_beside_it_in_the_checkpoint(
    ppo: MakePPO, tiny_model: Path, value_model: str
) -> None:
    settings = ppo(ppo={"value_model": value_model})
    trainer = TRLPPOTrainer(settings)
    trainer.train()
    answer = trainer.predict("What is 1 plus 2?", max_new_tokens=6)
    folder = trainer.save_model()
    assert not [path for path in folder.iterdir() if "value" in path.name]
    names = load_file(folder / "adapter_model.safetensors")
    assert not [name for name in names if "value" in name]
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 1 plus 2?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    out = policy.generate(input_ids=ids, max_new_tokens=6, do_sample=False)
    said = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert said == answer
    value = load_file(Path(settings.output_dir) / "checkpoint-12" / "value.safetensors")
    assert value["value_head.weight"].abs().sum() > 0
    assert ("value_trunk" in "".join(value)) is (value_model == "separate")


def test_full_tuning_saves_a_plain_model(ppo: MakePPO, tiny_model: Path) -> None:
    trainer = TRLPPOTrainer(ppo(model={"tuning": "full"}))
    trainer.train()
    folder = trainer.save_model()
    weights = load_file(folder / "model.safetensors")
    before = load_file(tiny_model / "model.safetensors")
    assert weights.keys() == before.keys()
    assert not all(torch.equal(weights[name], before[name]) for name in before)


def test_an_evaluation_saves_no_policy_that_has_left_its_reference(ppo: MakePPO) -> None:
    settings = ppo(
        rewards=[{"name": "tests.trainers.rising_reward:rising"}],
        ppo={"kl_limit": 1e-3, "epochs": 1},
        train={"learning_rate": 5e-2},
        checkpoint={"every_steps": 1, "keep": 20},
        evaluation={"split_ratio": 0.2, "every_steps": 1, "keep_best": True},
    )
    strayed: list[bool] = []

    class Saves(TrainerCallback):
        def on_save(self, *_: Any, **__: Any) -> None:
            strayed.append(trainer.ensure_loop().strayed)

    trainer = TRLPPOTrainer(settings, callbacks=[Saves()])
    with pytest.raises(LossDivergedError, match="klLimit"):
        trainer.train()
    assert strayed
    assert not any(strayed)


def test_the_best_policy_is_kept_by_its_mean_reward(ppo: MakePPO) -> None:
    settings = ppo(
        train={"max_steps": 24, "learning_rate": 0.5, "lr_scheduler": "constant"},
        evaluation={"split_ratio": 0.3, "every_steps": 2, "keep_best": True},
        ppo={"kl_limit": 1000},
    )
    trainer = TRLPPOTrainer(settings)
    result = trainer.train()
    assert trainer.evaluate()["eval_reward"] == pytest.approx(result.best_metric)


def test_evaluation_draws_the_same_random_numbers_each_time_and_leaves_those_of_the_run(
    ppo: MakePPO,
) -> None:
    plain = ppo()
    TRLPPOTrainer(plain).train()
    measured = elsewhere(
        ppo(evaluation={"datasets": [{"name": plain.datasets[0].name}], "every_steps": 3}), "m"
    )
    trainer = TRLPPOTrainer(measured)
    trainer.train()
    assert curve(Path(measured.output_dir)) == curve(Path(plain.output_dir))
    assert trainer.evaluate() == trainer.evaluate()
    rows = Path(plain.datasets[0].name) / "test.jsonl"
    assert trainer.evaluate(str(rows)) == trainer.evaluate()


def test_evaluation_answers_and_scores_as_many_prompts_at_a_time_as_it_is_told(
    ppo: MakePPO,
) -> None:
    """Before each it is asked whether the run is to stop."""
    data = ppo().datasets[0].name  # six rows in its split `test`
    trainer = TRLPPOTrainer(
        ppo(evaluation={"datasets": [{"name": data}], "per_device_batch_size": 4})
    )
    loop: Any = trainer.ensure_loop()
    policy, [reward] = loop.model.policy, loop.rewards
    done: list[Any] = []
    generate = policy.generate

    def watched(**inputs: Any) -> Any:
        done.append(("answered", len(inputs["input_ids"])))
        return generate(**inputs)

    def watched_score(batch: Batch) -> Any:
        done.append(("scored", len(batch.completions)))
        return reward.score(batch)

    policy.generate = watched
    loop.rewards = [reward._replace(score=watched_score)]
    loop.check_preemption = lambda: done.append("asked")
    trainer.evaluate()
    answered = ["asked", ("answered", 4), "asked", ("answered", 2)]
    assert done == [*answered, "asked", ("scored", 4), "asked", ("scored", 2)]


def test_a_process_without_held_out_prompts_takes_part_in_an_evaluation(ppo: MakePPO) -> None:
    loop: Any = TRLPPOTrainer(ppo()).ensure_loop()
    loop.rewards = [reward._replace(score=None) for reward in loop.rewards]  # not to be called
    told = loop.evaluation_loop(loop.get_eval_dataloader([]), "")
    assert (told.num_samples, told.metrics["eval_reward"]) == (0, 0)


def test_a_hang_in_a_function_is_found_since_scoring_is_no_generation(ppo: MakePPO) -> None:
    while_scored, ever = activities(
        lambda context: TRLPPOTrainer(ppo(train={"max_steps": 4}), context)
    )
    assert while_scored == {"training"}
    assert "generating" in ever


def test_streamed_prompts_go_on_where_they_stopped(ppo: MakePPO) -> None:
    whole = ppo()
    whole = ppo(datasets=[{"name": whole.datasets[0].name, "streaming": True}])
    TRLPPOTrainer(whole).train()
    parts = elsewhere(whole, "parts")
    assert TRLPPOTrainer(parts, callbacks=[StopAt(7)]).train().preempted
    TRLPPOTrainer(parts).train()
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))


def test_prompts_follow_each_other_pass_after_pass_without_a_gap() -> None:
    rows = Dataset.from_list([{"number": number} for number in range(7)])
    long = [row["number"] for row in islice(endless(rows, seed=1, start=0), 21)]
    for first in (0, 7, 14):
        assert sorted(long[first : first + 7]) == list(range(7))
    assert long[:7] != long[7:14]
    for start in (3, 7, 10):
        later = [row["number"] for row in islice(endless(rows, seed=1, start=start), 5)]
        assert later == long[start : start + 5]


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"ppo": {"rollout_batch_size": 10}},
            (
                "ppo.rolloutBatchSize: 10 prompts cannot be cut into 2 minibatches x 1 processes"
                " x 2 sequences (train.perDeviceBatchSize); use 8 or 12, or change the others"
            ),
        ),
        (
            {"train": {"max_steps": 6}},
            (
                "train.maxSteps: 6 steps are no whole number of rollouts of 4 (ppo.epochs 2 x"
                " ppo.minibatches 2); use 4 or 8"
            ),
        ),
        (
            {"generation": {"max_new_tokens": 256}},
            "a prompt and generation.maxNewTokens 256 do not fit into model.maxLength 256",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_numbers(
    ppo: MakePPO, sections: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        TRLPPOTrainer(ppo(**sections)).ensure_loop()
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("epochs", "steps"), [(1, 12), (0.4, 4), (2, 20), (2.1, 24)]
)  # of 20 rows, 8 of which make a rollout of 4 steps
def test_epochs_become_whole_rollouts(ppo: MakePPO, epochs: float, steps: int) -> None:
    settings = ppo(train={"max_steps": None, "epochs": epochs})
    assert TRLPPOTrainer(settings).ensure_loop().args.max_steps == steps


@pytest.mark.parametrize(
    ("strategy", "passes"), [("zero2", True), ("fsdp2", False), ("zero3", False)]
)
def test_only_strategies_that_keep_whole_weights_are_taken(
    ppo: MakePPO, strategy: str, passes: bool
) -> None:
    settings = ppo(distributed={"strategy": strategy})
    if passes:
        check_supported("trl", settings)
    else:
        with pytest.raises(ConfigError, match=f"rl.distributed.strategy: {strategy} has not been"):
            check_supported("trl", settings)


def test_the_factory_makes_the_trainer(tiny_model: Path, questions: Path, tmp_path: Path) -> None:
    trainer = create_rl_trainer(
        model_name=str(tiny_model),
        dataset_name=str(questions),
        algorithm="ppo",
        backend="trl",
        rewards=[{"name": "length", "params": {"shortest": 3}}],
        rollout_batch_size=8,
        ppo_epochs=2,
        max_new_tokens=4,
        max_steps=2,
        output_dir=str(tmp_path / "out"),
    )
    assert isinstance(trainer, TRLPPOTrainer)
    assert trainer.train().step == 2
