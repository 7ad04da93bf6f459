"""GRPO, end to end on a tiny model, in this process or in forked ranks."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from aligntune.api.exit_codes import ExitCode
from aligntune.backends.trl.rl.grpo.grpo import TRLGRPOTrainer, check_vllm, trl_arguments
from aligntune.core.backend_factory import check_supported, create_rl_trainer
from aligntune.core.errors import (
    ConfigError,
    DataError,
    LossDivergedError,
    ModelNotFoundError,
    UnsupportedError,
)
from aligntune.core.rl.config import GenerationConfig, UnifiedConfig
from aligntune.training.checkpoints import MANIFEST
from tests.cluster.processes import wait_until
from tests.hub.content import dialogpt
from tests.trainers.callbacks import BreakAt, activities, asked_to_stop_in_evaluation
from tests.trainers.rollouts import train_recorded
from tests.trainers.stopping_reward import stopping
from tests.trainers.tiny import (
    MakeRLConfig,
    curve,
    launch,
    merge,
    plain_arguments,
    sums,
    write_jsonl,
    write_run,
)
from tests.trainers.trajectory import check_committed, check_steps, steps_of


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with answers: train.jsonl (48 rows) and test.jsonl (10 rows)."""
    folder = tmp_path_factory.mktemp("questions")
    for name, count in (("train", 48), ("test", 10)):
        rows = [{"prompt": row["prompt"], "answer": row["completion"]} for row in sums(count)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


@pytest.fixture
def grpo(tiny_model: Path, questions: Path, tmp_path: Path) -> MakeRLConfig:
    """Makes a config of a quick run; keyword arguments are sections to lay over it."""

    def make(**sections: Any) -> UnifiedConfig:
        base = {
            "algo": "grpo",
            "model": {"name": str(tiny_model)},
            "datasets": [{"name": str(questions)}],
            # random weights say anything: vowels and length give their answers some spread
            "rewards": [
                {"name": "regex", "params": {"pattern": "[aeiou]"}},
                {"name": "length", "weight": 0.5, "params": {"shortest": 20}},
            ],
            "grpo": {"prompts_per_step": 2, "num_generations": 4},
            "generation": {"max_new_tokens": 12},
            "train": {"max_steps": 6, "learning_rate": 1e-2, "per_device_batch_size": 4},
            "logging": {"every_steps": 2},
            "output_dir": str(tmp_path / "out"),
        }
        return UnifiedConfig.model_validate(merge(base, sections))

    return make


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"tuning": "full"}},
        {"model": {"tuning": "lora"}, "grpo": {"beta": 0.1, "num_iterations": 2}},
        {"model": {"tuning": "full"}, "grpo": {"beta": 0.1, "loss": "grpo"}},
        {"model": {"tuning": "full"}, "grpo": {"loss": "bnpo"}},
    ],
    ids=["full", "lora with reference, two iterations", "full with reference", "full, bnpo"],
)
def test_losses_are_those_of_a_plain_trl_script_to_the_last_digit(
    grpo: MakeRLConfig, tiny_model: Path, questions: Path, tmp_path: Path, sections: dict[str, Any]
) -> None:
    settings = grpo(**sections)
    assert settings.grpo is not None
    TRLGRPOTrainer(settings).train()

    def vowels(completions: list[Any], **_: Any) -> list[float]:
        return [float(any(c in "aeiou" for c in turn[0]["content"])) for turn in completions]

    def length(completions: list[Any], **_: Any) -> list[float]:
        return [min(1.0, len(turn[0]["content"].strip()) / 20) for turn in completions]

    set_seed(42)
    script = trl.GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        reward_funcs=[vowels, length],
        args=trl.GRPOConfig(
            **plain_arguments(tmp_path / "script", max_steps=6, learning_rate=1e-2),
            gradient_accumulation_steps=2,
            num_generations=4,
            num_iterations=settings.grpo.num_iterations,
            beta=settings.grpo.beta,
            loss_type=settings.grpo.loss,
            reward_weights=[1.0, 0.5],
            max_completion_length=12,
        ),
        train_dataset=Dataset.from_list(
            [
                {"prompt": [{"role": "user", "content": json.loads(line)["prompt"]}]}
                for line in (questions / "train.jsonl").read_text().splitlines()
            ]
        ),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"
        )
        if settings.model.tuning == "lora"
        else None,
    )
    script.train()
    assert any(line["gradNorm"] for line in curve(Path(settings.output_dir)))
    check_steps(Path(settings.output_dir), steps_of(script))


def test_the_trajectory_is_the_committed_one(grpo: MakeRLConfig) -> None:
    settings = grpo(grpo={"beta": 0.05, "num_iterations": 2})
    TRLGRPOTrainer(settings).train()
    check_committed(Path(settings.output_dir), "grpo-lora", relative=1e-3, absolute=1e-6)


def test_metrics_and_result_tell_what_was_sampled_and_what_for(grpo: MakeRLConfig) -> None:
    trainer = TRLGRPOTrainer(grpo(grpo={"beta": 0.1}, train={"max_steps": 4}))
    result = trainer.train()
    assert {
        "reward_mean", "reward_std", "reward_regex", "reward_regex_std", "reward_length",
        "completion_length", "completions_cut", "groups_without_spread", "entropy", "kl",
        "clip_fraction", "clip_fraction_low", "clip_fraction_high",
    } <= set(result.metrics)  # fmt: skip
    assert 0 <= result.metrics["reward_regex"] <= 1
    assert result.samples == 4 * 8
    assert trainer.loop is not None
    assert result.tokens == trainer.loop.state.num_input_tokens_seen
    without = TRLGRPOTrainer(grpo(output_dir=trainer.config.output_dir + "-2"))
    assert "kl" not in without.train().metrics
    assert without.ensure_loop().ref_model is None


def test_completions_are_written_as_a_table_and_a_few_are_logged(
    grpo: MakeRLConfig, caplog: pytest.LogCaptureFixture
) -> None:
    settings = grpo()
    with caplog.at_level("INFO"):
        TRLGRPOTrainer(settings).train()
    files = sorted((Path(settings.output_dir) / "completions").iterdir())
    assert [file.name for file in files] == [f"step-{n:08}.jsonl" for n in (2, 4, 6)]
    rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert len(rows) == 8
    assert list(rows[0]) == [
        "step", "prompt", "completion", "reward", "reward_regex", "reward_length", "advantage",
    ]  # fmt: skip
    for row in rows:
        assert row["reward"] == pytest.approx(row["reward_regex"] + 0.5 * row["reward_length"])
        assert row["reward_regex"] == any(vowel in row["completion"] for vowel in "aeiou")
    assert sum(row["advantage"] for row in rows[:4]) == pytest.approx(0, abs=1e-5)
    assert "step 6:\n┏" in caplog.text
    assert "reward_regex ┃" in caplog.text


@pytest.mark.parametrize(
    ("sections", "stopped"),
    [
        ({"grpo": {"num_iterations": 3, "beta": 0.1}}, 4),
        ({"datasets": [{"name": "{data}", "max_samples": 5}]}, 5),
        ({"datasets": [{"name": "{data}", "streaming": True}]}, 3),
        (
            {
                "datasets": [{"name": "{data}/test.jsonl", "streaming": True}],
                "grpo": {"prompts_per_step": 4},
            },
            3,
        ),
    ],
    ids=["within a rollout", "in the third epoch", "in a stream", "in its second pass"],
)
def test_a_resumed_run_repeats_the_uninterrupted_one_exactly(
    grpo: MakeRLConfig, questions: Path, sections: dict[str, Any], stopped: int
) -> None:
    if "datasets" in sections:
        [source] = sections["datasets"]
        sections = sections | {
            "datasets": [source | {"name": source["name"].format(data=questions)}]
        }
    settings = grpo(**sections, checkpoint={"every_steps": 1, "keep": 9})
    folder = Path(settings.output_dir)
    first = TRLGRPOTrainer(settings).train()
    uninterrupted, tables = curve(folder), _tables(folder)
    rewards = (folder / "measured.jsonl").read_text()
    assert '"rewardMean": ' in rewards
    for step in range(stopped + 1, 7):
        shutil.rmtree(folder / f"checkpoint-{step}")
    second = TRLGRPOTrainer(settings).train()
    assert curve(folder) == uninterrupted
    assert (folder / "measured.jsonl").read_text() == rewards
    assert _tables(folder) == tables
    assert second.metrics == first.metrics
    assert (second.samples, second.tokens) == (first.samples, first.tokens)


def test_a_request_to_stop_before_the_first_step_ends_the_process_at_once(
    grpo: MakeRLConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What loads may take longer than a pod's grace period, and there is nothing to save."""
    (tmp_path / "sleeping.py").write_text(
        "import pathlib, time\npathlib.Path(__file__).with_name('loads').touch()\ntime.sleep(120)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = write_run(tmp_path / "run.json", grpo(rewards=[{"name": "sleeping:reward"}]))
    [rank] = launch(run, tmp_path, fresh=True)
    wait_until("its reward is imported", (tmp_path / "loads").exists, seconds=240)
    rank.terminate()
    assert rank.wait() == -signal.SIGTERM


def _tables(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "completions").iterdir()}


def test_a_request_to_stop_during_a_rollout_ends_the_step_and_loses_nothing(
    grpo: MakeRLConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "interrupted.py").write_text(
        "import os, signal\n"
        "def vowels(batch):\n"
        "    if os.environ.pop('INTERRUPT', None):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return [float('a' in text) for text in batch.completions]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rewards = [{"name": "interrupted:vowels"}]
    whole = grpo(rewards=rewards, grpo={"num_iterations": 2})
    TRLGRPOTrainer(whole).train()
    parts = grpo(
        rewards=rewards, grpo={"num_iterations": 2}, output_dir=whole.output_dir + "-parts"
    )
    monkeypatch.setenv("INTERRUPT", "1")
    result = TRLGRPOTrainer(parts).train()
    assert (result.preempted, result.step) == (True, 1)
    assert TRLGRPOTrainer(parts).train().step == 6
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))


def test_a_run_asked_to_stop_while_it_evaluates_stops_there(
    grpo: MakeRLConfig, questions: Path
) -> None:
    settings = grpo(evaluation={"datasets": [{"name": str(questions)}], "every_steps": 2})
    stopped = TRLGRPOTrainer(settings, asked_to_stop_in_evaluation()).train()
    assert (stopped.preempted, stopped.step) == (True, 2)


def test_two_ranks_stop_together_inside_a_rollout_and_resume_exactly(
    grpo: MakeRLConfig, tmp_path: Path
) -> None:
    """SIGTERM reaches one rank only; both save, exit 143, and go on as if nothing had been."""
    sections = {
        "grpo": {"num_iterations": 4},
        "train": {"max_steps": 16, "per_device_batch_size": 2},
        "logging": {"every_steps": 5},
    }
    never, once = tmp_path / "never", tmp_path / "once"
    never.touch()
    whole = grpo(**sections, rewards=[stopping(never)])
    complete = write_run(tmp_path / "whole.json", whole, processesPerNode=2)
    assert [rank.wait() for rank in launch(complete, tmp_path, 2)] == [0, 0]

    folder = whole.output_dir + "-parts"
    parts = grpo(**sections, rewards=[stopping(once)], output_dir=folder)
    run = write_run(tmp_path / "parts.json", parts, processesPerNode=2)
    stopped = [rank.wait() for rank in launch(run, tmp_path, 2)]
    assert stopped == [ExitCode.PREEMPTED, ExitCode.PREEMPTED]
    assert len(curve(Path(parts.output_dir))) == 5  # the first of the second rollout's four steps
    assert [rank.wait() for rank in launch(run, tmp_path, 2)] == [0, 0]
    assert curve(Path(parts.output_dir)) == curve(Path(whole.output_dir))


def test_a_checkpoint_of_other_processes_goes_on_with_a_new_rollout_where_that_is_forced(
    grpo: MakeRLConfig, caplog: pytest.LogCaptureFixture
) -> None:
    settings = grpo(grpo={"num_iterations": 2}, checkpoint={"every_steps": 3, "resume": "force"})
    TRLGRPOTrainer(settings).train()
    folder = Path(settings.output_dir)
    shutil.rmtree(folder / "checkpoint-6")
    manifest = json.loads((folder / "checkpoint-3" / MANIFEST).read_text())
    del manifest["files"]["rollout-0.pt"]  # as other processes would have left it
    (folder / "checkpoint-3" / "rollout-0.pt").unlink()
    (folder / "checkpoint-3" / MANIFEST).write_text(json.dumps(manifest | {"worldSize": 2}))
    assert TRLGRPOTrainer(settings).train().step == 6
    assert "is of other processes: a new rollout begins" in caplog.text


def test_two_ranks_learn_the_same_from_recorded_rollouts_as_one(
    grpo: MakeRLConfig, tmp_path: Path
) -> None:
    """Every loss but bnpo, which averages over the tokens of one process alone."""
    losses = ["grpo", "dapo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"]
    one = grpo(train={"max_steps": 3, "per_device_batch_size": 2}, grpo={"beta": 0.1})
    two = grpo(
        train={"max_steps": 3, "per_device_batch_size": 2},
        grpo={"beta": 0.1},
        output_dir=one.output_dir + "-two",
    )
    train_recorded(one, losses, tmp_path, processes=1)
    train_recorded(two, losses, tmp_path, processes=2)
    for loss in losses:
        alone, together = (curve(Path(run.output_dir) / loss) for run in (one, two))
        assert any(line["gradNorm"] for line in alone)
        for ours, theirs in zip(together, alone, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)


def test_a_policy_that_leaves_its_reference_ends_the_run_and_keeps_the_last_good_checkpoint(
    grpo: MakeRLConfig,
) -> None:
    settings = grpo(grpo={"beta": 0.01, "kl_limit": 1e-4}, checkpoint={"every_steps": 1, "keep": 1})
    with pytest.raises(
        LossDivergedError, match=r"step 4: .* above grpo.klLimit 0.0001 3 times in a row"
    ):
        TRLGRPOTrainer(settings).train()
    assert [p.name for p in Path(settings.output_dir).glob("checkpoint-*")] == ["checkpoint-1"]


@pytest.mark.parametrize(
    ("weight", "evaluation"),
    [(1, {"keep_best": True}), (-1, {"early_stopping_patience": 1})],
    ids=["keepBest", "earlyStoppingPatience"],
)
def test_an_evaluation_saves_no_policy_that_has_left_its_reference_and_takes_none_for_the_best(
    grpo: MakeRLConfig, weight: int, evaluation: dict[str, Any]
) -> None:
    settings = grpo(
        rewards=[{"name": "tests.trainers.rising_reward:rising", "weight": weight}],
        grpo={"beta": 0.01, "kl_limit": 1e-4},
        checkpoint={"every_steps": 1},
        evaluation={"split_ratio": 0.1, "every_steps": 1} | evaluation,
    )
    trainer = TRLGRPOTrainer(settings)
    with pytest.raises(LossDivergedError, match="step 4: "):
        trainer.train()
    assert [p.name for p in Path(settings.output_dir).glob("checkpoint-*")] == ["checkpoint-1"]
    history = trainer.ensure_loop().state.log_history
    [first, *_] = (line["eval_reward"] for line in history if "eval_reward" in line)
    assert trainer.state.best_metric == first


def test_a_diverged_loss_ends_the_run_and_keeps_the_last_good_checkpoint(
    grpo: MakeRLConfig,
) -> None:
    """It breaks while a rollout is learned from; there is no reference that could tell."""
    settings = grpo(grpo={"num_iterations": 2}, checkpoint={"every_steps": 1, "keep": 1})
    with pytest.raises(LossDivergedError, match="step 4: the loss"):
        TRLGRPOTrainer(settings, callbacks=[BreakAt(4)]).train()
    assert [p.name for p in Path(settings.output_dir).glob("checkpoint-*")] == ["checkpoint-3"]


def test_evaluation_leaves_training_as_it_is_and_the_greatest_reward_is_the_best(
    grpo: MakeRLConfig,
) -> None:
    plain = grpo()
    TRLGRPOTrainer(plain).train()
    settings = grpo(
        evaluation={"datasets": [{"name": plain.datasets[0].name}], "every_steps": 1},
        output_dir=plain.output_dir + "-evaluated",
    )
    trainer = TRLGRPOTrainer(settings)
    result = trainer.train()
    assert curve(Path(settings.output_dir)) == curve(Path(plain.output_dir))
    assert trainer.loop is not None
    seen = [line["eval_reward"] for line in trainer.loop.state.log_history if "eval_reward" in line]
    assert len(set(seen)) > 1
    assert result.best_metric == max(seen)
    metrics = trainer.evaluate()
    assert metrics["eval_reward"] == pytest.approx(seen[-1])  # the same draw every time
    assert metrics["eval_reward"] == pytest.approx(
        metrics["eval_reward_regex"] + 0.5 * metrics["eval_reward_length"]
    )
    assert 1 <= metrics["eval_completion_length"] <= 12


def test_rewards_rise_where_there_is_something_to_learn(grpo: MakeRLConfig) -> None:
    settings = grpo(
        model={"tuning": "full"},
        rewards=[{"name": "regex", "params": {"pattern": "e"}}],
        grpo={"prompts_per_step": 4, "num_generations": 8},
        train={"max_steps": 25, "per_device_batch_size": 32, "learning_rate": 1e-2},
        logging={"every_steps": 5},
    )
    trainer = TRLGRPOTrainer(settings)
    trainer.train()
    assert trainer.loop is not None
    means = [
        line["reward_mean"] for line in trainer.loop.state.log_history if "reward_mean" in line
    ]
    assert means[-1] > means[0] + 0.3


def test_the_model_answers_text_and_the_functions_build_the_trainer(
    tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    trainer = create_rl_trainer(
        str(tiny_model),
        str(questions),
        "grpo",
        rewards=[{"name": "exact_match", "weight": 2.0}],
        num_generations=4,
        prompts_per_step=1,
        max_new_tokens=4,
        max_prompt_length=100,
        epsilon_high=0.3,
        kl_limit=2.0,
        max_steps=1,
        output_dir=str(tmp_path / "out"),
    )
    assert isinstance(trainer, TRLGRPOTrainer)
    assert trainer.train().step == 1
    assert isinstance(trainer.predict("What is 1 plus 2?", max_new_tokens=4), str)
    assert (trainer.save_model() / "adapter_model.safetensors").is_file()


def arguments(config: UnifiedConfig) -> trl.GRPOConfig:
    trainer = TRLGRPOTrainer(config)
    trainer.setup_model()
    return trainer.arguments


def test_a_hang_in_a_function_is_found_since_scoring_is_no_generation(grpo: MakeRLConfig) -> None:
    while_scored, ever = activities(
        lambda context: TRLGRPOTrainer(grpo(train={"max_steps": 4}), context)
    )
    assert while_scored == {"training"}
    assert "generating" in ever


def test_the_batch_is_prompts_times_generations_over_all_processes(grpo: MakeRLConfig) -> None:
    found = arguments(
        grpo(
            grpo={"prompts_per_step": 6, "num_generations": 4},
            train={"per_device_batch_size": 8, "gradient_accumulation_steps": 3},
        )
    )
    assert (found.per_device_train_batch_size, found.gradient_accumulation_steps) == (8, 3)
    assert (found.generation_batch_size, found.steps_per_generation) == (24, 3)


@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_only_adapters_drop_out(
    grpo: MakeRLConfig, tiny_model: Path, tmp_path: Path, rate: float
) -> None:
    model = {"name": str(dialogpt(tmp_path / "gpt2", tiny_model)), "lora": {"dropout": rate}}
    loop = TRLGRPOTrainer(grpo(model=model)).ensure_loop()
    rates: dict[bool, set[float]] = {True: set(), False: set()}
    for name, module in loop.model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            rates["lora" in name].add(module.p)
    assert rates == {True: {rate} - {0.0}, False: {0.0}}


def test_cispo_clips_the_ratio_itself(grpo: MakeRLConfig) -> None:
    assert arguments(grpo(grpo={"loss": "cispo"})).epsilon_high == 5
    assert arguments(grpo(grpo={"loss": "cispo", "epsilon_high": 3})).epsilon_high == 3


def test_an_explicit_reference_is_what_the_policy_is_held_to(
    grpo: MakeRLConfig, tiny_model: Path, tmp_path: Path
) -> None:
    other = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        other.lm_head.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    sections = {"grpo": {"beta": 0.1}, "logging": {"every_steps": 1}, "train": {"max_steps": 1}}
    own = TRLGRPOTrainer(grpo(**sections)).train()
    assert own.metrics["kl"] == pytest.approx(0, abs=1e-9)  # the first step is the base's still
    named = grpo(
        **sections,
        reference_model={"name": str(tmp_path / "other")},
        output_dir=str(tmp_path / "out-2"),
    )
    assert TRLGRPOTrainer(named).train().metrics["kl"] > 1e-4


@pytest.mark.parametrize(
    ("sections", "kind", "sentence"),
    [
        (
            {"train": {"per_device_batch_size": 3}},
            ConfigError,
            "2 x numGenerations 4 = 8 completions a step .* 1 processes x .*perDeviceBatchSize 3",
        ),
        (
            {"train": {"gradient_accumulation_steps": 5}},
            ConfigError,
            r"gradientAccumulationSteps 5: with grpo it follows from .* = 2; remove it",
        ),
        (
            {"grpo": {"prompts_per_step": 49}, "train": {"per_device_batch_size": 49}},
            DataError,
            "48 prompts are there, and a step takes grpo.promptsPerStep 49; add prompts",
        ),
        (
            {"model": {"max_length": 12}},
            ConfigError,
            "a prompt and generation.maxNewTokens 12 do not fit into model.maxLength 12",
        ),
        (
            {"grpo": {"max_prompt_length": 250}},
            ConfigError,
            "grpo.maxPromptLength 250 and generation.maxNewTokens 12 do not fit into model.maxLen",
        ),
        ({"grpo": {"max_prompt_length": 3}}, DataError, "all 48 rows .* beyond grpo.maxPromptL"),
        ({"model": {"max_length": 15}}, DataError, "beyond model.maxLength less generation.maxNew"),
        ({"reference_model": {"name": "m"}}, ConfigError, "has no effect with grpo.beta 0"),
        ({"generation": {"vllm": "colocate"}}, ConfigError, "vllm: colocate: needs a GPU"),
        (
            {"generation": {"vllm": "server", "vllm_url": "http://127.0.0.1:9"}},
            ConfigError,
            r"vllmUrl 'http://127.0.0.1:9': no vLLM server answers there .*refused.* vllm: off",
        ),
        ({"rewards": [{"name": "exact_mtch"}]}, ConfigError, "did you mean 'exact_match'"),
        ({"rewards": [{"name": "reward_model"}]}, ConfigError, "name one in rewardModel"),
        (
            {"reward_model": {"name": "/models/none"}},
            ModelNotFoundError,
            "rewardModel.name '/models/none': there is no such folder",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_the_first_step(
    grpo: MakeRLConfig, sections: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        TRLGRPOTrainer(grpo(**sections)).ensure_loop()


def test_sharded_weights_are_refused(grpo: MakeRLConfig) -> None:
    with pytest.raises(UnsupportedError, match=r"spec.rl.distributed.strategy: zero3"):
        check_supported("trl", grpo(distributed={"strategy": "zero3"}))


def test_vllm_is_told_where_answers_end(grpo: MakeRLConfig) -> None:
    made = grpo(generation={"vllm": "colocate"})
    shared = {"output_dir": "x", "use_cpu": True, "bf16": False}
    told = trl_arguments(made, shared, processes=1, max_length=64, ends=[0, 2])
    assert told.generation_kwargs == {"stop_token_ids": [0, 2]}


def test_vllm_that_is_not_installed_is_said() -> None:
    with pytest.raises(ConfigError, match="vllm: colocate: needs the package vllm, which is not"):
        check_vllm(GenerationConfig(vllm="colocate"), gpu=True)


def test_prompts_that_make_no_whole_step_are_counted(
    grpo: MakeRLConfig, questions: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = grpo(datasets=[{"name": str(questions), "max_samples": 7}])
    with caplog.at_level("INFO"):
        TRLGRPOTrainer(settings).setup_data()
    assert "the last 1 of 7 prompts make no whole step" in caplog.text


def test_a_reward_function_that_fails_ends_the_run_with_its_sentence(
    grpo: MakeRLConfig, tmp_path: Path
) -> None:
    settings = grpo(rewards=[{"name": "math:sqrt"}])
    [rank] = launch(write_run(tmp_path / "run.json", settings), tmp_path)
    assert rank.wait() == ExitCode.BAD_CONFIG
    assert "ConfigError: rewards[0] 'math:sqrt': failed with TypeError: must be real" in rank.output
    assert "Traceback" not in rank.output
