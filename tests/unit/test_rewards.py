"""Reward functions as pure functions, and what becomes of results that are none."""

import math
import signal
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligntune.core.errors import ConfigError
from aligntune.core.rl.config import UnifiedConfig
from aligntune.rewards.answers import last_number
from aligntune.rewards.registry import load_rewards
from aligntune.rewards.scoring import Batch, Reward, score


def batch(*completions: str, **columns: list[Any]) -> Batch:
    return Batch([[{"role": "user", "content": "?"}]] * len(completions), [*completions], columns)


def config(*rewards: dict[str, Any]) -> UnifiedConfig:
    return UnifiedConfig.model_validate(
        {
            "algo": "grpo",
            "model": {"name": "m"},
            "datasets": [{"name": "d"}],
            "rewards": list(rewards),
        }
    )


def rewarded(name: str, given: Batch, **params: Any) -> list[float | None]:
    [reward] = load_rewards(config({"name": name, "params": params}))
    return list(reward.score(given))


@pytest.mark.parametrize(
    ("name", "params", "completion", "answer", "value"),
    [
        ("exact_match", {}, " Paris\n", "Paris", 1),
        ("exact_match", {}, "paris", "Paris", 0),
        ("exact_match", {"ignore_case": True}, "paris", "Paris", 1),
        ("exact_match", {}, "5", 5, 1),
        ("exact_match", {}, "5", 5.0, 1),  # what a column of 5 and 0.5 holds
        ("exact_match", {}, "true", True, 1),
        ("exact_match", {}, "5", None, None),
        ("numeric_answer", {}, "2 + 3 = 5.", "5", 1),
        ("numeric_answer", {}, "It is 1,234.50", "#### 1234.5", 1),
        ("numeric_answer", {}, "5-3", "3", 1),
        ("numeric_answer", {}, "it is -3", -3, 1),
        ("numeric_answer", {}, "none", "3", 0),
        ("numeric_answer", {}, "3.2", "3", 0),
        ("numeric_answer", {"tolerance": 0.1}, "3.2", "3", 1),
        ("numeric_answer", {}, "5", "five", None),
        ("regex", {"pattern": r"^\d+$"}, " 42 ", None, 1),
        ("regex", {"pattern": r"\d+", "whole": True}, "42 apples", None, 0),
        ("length", {}, "", None, 0),
        ("length", {}, "a short answer", None, 1),
        ("length", {"longest": 5}, "ten letter", None, 0.5),
        ("length", {"shortest": 20}, "ten letter", None, 0.5),
        ("repetition", {}, "a b c d e", None, 0),
        ("repetition", {"words": 1}, "no No no no", None, -0.75),
        ("json_valid", {}, '```json\n{"a": 1}\n```', None, 1),
        ("json_valid", {}, "[1, 2]", None, 1),
        ("json_valid", {}, "42", None, 0),
        ("json_valid", {}, "{'a': 1}", None, 0),
        ("json_valid", {"keys": ["a", "b"]}, '{"a": 1}', None, 0),
    ],
)
def test_a_registered_function_scores(
    name: str, params: dict[str, Any], completion: str, answer: object, value: float | None
) -> None:
    assert rewarded(name, batch(completion, answer=[answer]), **params) == [value]


def test_reasoning_gym_judges_by_the_task_of_the_row() -> None:
    entry = {"source_dataset": "chain_sum", "expression": "4 - 1"}
    given = batch(
        "It is <answer>3</answer>",
        "3",
        "4",
        "anything",
        question=["4 - 1 =", "4 - 1 =", "4 - 1 =", None],
        answer=["3", "3", "3", None],
        metadata=[entry, '{"source_dataset": "chain_sum"}', entry, None],
    )
    one, other, wrong, foreign = rewarded("reasoning_gym", given)
    assert (one, other, foreign) == (1, 1, None)
    assert wrong is not None
    assert wrong < 1
    with pytest.raises(ConfigError, match="reasoning-gym has no task 'no_such_task'"):
        rewarded("reasoning_gym", batch("3", metadata=[{"source_dataset": "no_such_task"}]))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", None),
        ("1e3", 1000),
        ("v1.2", None),
        ("1.2.3", 1.2),
        ("3 apples, 4", 4),
        ("3,4", 4),
        ("12,345", 12345),
        ("It is .5.", 0.5),
        ("$-.50", -0.5),
        ("It is...5", 5),
        ("No.5", 5),
        ("\N{MINUS SIGN}5", -5),
    ],
)
def test_the_last_number_of_a_text(text: str, number: float | None) -> None:
    assert last_number(text) == number


@given(
    number=st.decimals(-9999, 9999, places=2),
    minus=st.sampled_from(["-", "\N{MINUS SIGN}"]),
    before=st.sampled_from(["", "7 - ", "so x=", "$"]),
    after=st.sampled_from(["", ".", "...", ", of course", "%"]),
)
def test_a_number_is_read_however_it_is_written(
    number: Decimal, minus: str, before: str, after: str
) -> None:
    spelled = [str(number), f"{number:,}"]
    if abs(number) < 1:
        spelled.append(str(number).replace("0.", "."))
    for text in spelled:
        assert last_number(before + text.replace("-", minus) + after) == float(number)


def test_the_total_is_weighted_and_leaves_out_what_does_not_apply() -> None:
    scores = score(
        [
            Reward("half", 0.5, lambda given: [1.0] * len(given.completions)),
            Reward("some", 2.0, lambda _: [3, None]),
            Reward("seen", 0.0, lambda _: [True, 7]),
        ],
        batch("a", "b"),
    )
    assert scores.total == [6.5, 0.5]
    assert scores.each == {"half": [1, 1], "some": [3, None], "seen": [1, 7]}


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ([1.0], r"rewards\[0\] 'f': returned 1 rewards for 2 completions; return one number"),
        ([1.0, math.nan], r"rewards\[0\] 'f': sample 1 \('b'\) got nan; return a finite number"),
        ([math.inf, 1.0], r"sample 0 \('a'\) got inf"),
        ([1.0, "1"], r"sample 1 \('b'\) got '1'"),
        ([[1], 1.0], r"sample 0 \('a'\) got \[1\]"),
        (1.0, r"rewards\[0\] 'f': must return one number per completion, returned 1.0"),
        ([1.0, None], r"rewards: none of f applies to sample 1 of the batch \('b'\)"),
    ],
)
def test_a_result_that_is_no_reward_names_function_and_sample(returned: Any, sentence: str) -> None:
    reward = Reward("f", 1.0, lambda _: returned, place="rewards[0] 'f'")
    with pytest.raises(ConfigError, match=sentence):
        score([reward], batch("a", "b"))


def test_a_function_that_fails_names_the_error_and_its_line() -> None:
    reward = Reward("f", 1.0, lambda _: [1 / 0], place="rewards[0] 'f'")
    with pytest.raises(ConfigError, match=r"failed with ZeroDivisionError.*test_rewards\.py, line"):
        score([reward], batch("a"))
    reward = Reward("f", 1.0, lambda _: sys.exit(0), place="rewards[0] 'f'")
    with pytest.raises(ConfigError, match=r"failed with SystemExit: 0"):
        score([reward], batch("a"))


def test_a_network_that_cannot_be_reached_is_not_the_functions_fault() -> None:
    def asks(_: Batch) -> list[float]:
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        score([Reward("f", 1.0, asks)], batch("a"))


def stubborn(_: Batch) -> list[float]:
    while True:
        try:
            sum(range(1000))
        except Exception:  # noqa: BLE001 - as careless code does
            return [0.0]


def test_a_function_that_hangs_is_interrupted() -> None:
    reward = Reward("f", 1.0, stubborn, timeout_seconds=0.1, place="rewards[0] 'f'")
    with pytest.raises(ConfigError, match=r"'f': took longer than 0.1 s for 1 completions; make"):
        score([reward], batch("a"))


def test_nothing_is_interrupted_once_a_function_has_returned() -> None:
    limit = 60  # less than pytest has for a test, by the same timer
    quick = Reward("g", 1.0, lambda _: [1], timeout_seconds=limit)
    assert score([quick], batch("a")).total == [1]
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    assert left == 0 or left > limit


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"name": "exact_mach"}, r"rewards\[0\] 'exact_mach': unknown; did you mean 'exact_match'"),
        ({"name": "bonus"}, r"unknown; known are exact_match, numeric_answer, regex, length"),
        ({"name": "regex"}, r"params: missing a required argument: 'pattern'; it takes pattern"),
        (
            {"name": "length", "params": {"max": 3}},
            r"unexpected keyword argument 'max'; it takes shortest: int = 1, longest: int = 1000",
        ),
        ({"name": "length", "params": {"longest": 0}}, "1 <= shortest <= longest is needed"),
        ({"name": "regex", "params": {"pattern": "("}}, r"pattern '\(' is no regular expression"),
        ({"name": "reward_model"}, "there is no model to ask; name one in rewardModel"),
        ({"name": "no.such:f"}, "there is no module 'no'; mount it, and put its folder into PYTH"),
        ({"name": "own_rewards:funy"}, "has no function 'funy'; did you mean 'funny'"),
        ({"name": "own_rewards:funny", "params": {"x": 1}}, "argument 'x'; it takes bonus: float"),
        ({"name": "broken_rewards:f"}, r"importing broken_rewards fails with ValueError: no.*line"),
        (
            {"name": "ending_rewards:f"},
            r"importing ending_rewards fails with SystemExit: 0.*line",
        ),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_before_training(
    entry: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_rewards(config(entry))


@pytest.mark.usefixtures("own")
def test_a_function_of_ones_own_is_called_with_its_params() -> None:
    entry = {"name": "own_rewards:funny", "weight": 2, "params": {"bonus": 3}}
    rewards = load_rewards(config(entry, entry, {"name": "json_valid"}))
    assert [reward.name for reward in rewards] == ["funny", "funny_2", "json_valid"]
    assert score(rewards, batch("haha")).total == [2 * (4 + 3) * 2]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("functions", "names"),
    [
        (("regex_2", "regex", "regex"), ["regex_2", "regex", "regex_3"]),
        (("regex", "regex", "regex_2"), ["regex", "regex_2", "regex_2_2"]),
        (("mean", "std"), ["mean_2", "std_2"]),
        (("x", "x_std"), ["x", "x_std_2"]),
    ],
)
def test_no_two_functions_share_a_metric_and_none_takes_the_sums(
    functions: tuple[str, ...], names: list[str]
) -> None:
    rewards = load_rewards(config(*({"name": f"namesakes:{name}"} for name in functions)))
    assert [reward.name for reward in rewards] == names


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of the user's, found by PYTHONPATH."""
    (tmp_path / "own_rewards.py").write_text(
        "def funny(batch, *, bonus: float = 0.0):\n"
        "    return [len(text) + bonus for text in batch.completions]\n"
    )
    (tmp_path / "broken_rewards.py").write_text("raise ValueError('no')\n")
    (tmp_path / "ending_rewards.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "namesakes.py").write_text(
        "def __getattr__(name):\n    return lambda batch: [1.0] * len(batch.completions)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_rewards", "broken_rewards", "ending_rewards", "namesakes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
