"""What a cluster's owner sets, and what a mistake in it reads like."""

import sys

import pytest

from aligntune.core.errors import ConfigError
from aligntune_operator.settings import load_settings


@pytest.fixture(autouse=True)
def no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["aligntune-operator"])


@pytest.mark.parametrize(
    ("value", "namespaces"), [("a", ("a",)), ("a,b", ("a", "b")), ("a, b,", ("a", "b")), ("", ())]
)
def test_namespaces_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, value: str, namespaces: tuple[str, ...]
) -> None:
    monkeypatch.setenv("ALIGNTUNE_OPERATOR_NAMESPACES", value)
    assert load_settings().namespaces == namespaces


@pytest.mark.parametrize("options", [["a,b"], ["a", "b"]])
def test_namespaces_may_be_options(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    arguments = [part for option in options for part in ("--namespaces", option)]
    monkeypatch.setattr(sys, "argv", ["aligntune-operator", *arguments])
    assert load_settings().namespaces == ("a", "b")


def test_each_mistake_is_a_sentence_that_names_option_and_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALIGNTUNE_OPERATOR_HTTP_PORT", "x")
    monkeypatch.setenv("ALIGNTUNE_OPERATOR_LOG_LEVEL", "LOUD")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    port, level = str(caught.value).splitlines()
    assert port.startswith("--http-port (ALIGNTUNE_OPERATOR_HTTP_PORT): must be a valid integer")
    assert level.startswith("--log-level (ALIGNTUNE_OPERATOR_LOG_LEVEL): must be 'DEBUG', 'INFO',")


def test_without_a_hub_nothing_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNTUNE_OPERATOR_MEMORY_ESTIMATE", "refuse")
    assert load_settings().estimates == "refuse"
    monkeypatch.setenv("ALIGNTUNE_OPERATOR_HUB_ENDPOINT", "")
    assert load_settings().estimates == "off"


@pytest.mark.parametrize(
    "endpoint", ["hub", "ftp://hub", "https://user@hub", "https://hub?x", "https://hub:x", " "]
)
def test_a_hub_is_named_by_a_plain_url(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("ALIGNTUNE_OPERATOR_HUB_ENDPOINT", endpoint)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert str(caught.value).startswith("--hub-endpoint (ALIGNTUNE_OPERATOR_HUB_ENDPOINT): must")


def test_observers_are_peers_of_a_network_policy_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = '{"namespaceSelector": {}}'
    monkeypatch.setattr(sys, "argv", ["aligntune-operator", "--observers", f"[{peer}]"])
    assert load_settings().observers == ({"namespaceSelector": {}},)
    monkeypatch.setattr(sys, "argv", ["aligntune-operator"])
    monkeypatch.setenv("ALIGNTUNE_OPERATOR_OBSERVERS", f"[{peer}")
    with pytest.raises(ConfigError, match="observers"):
        load_settings()


@pytest.mark.parametrize("way", ["variable", "option"])
def test_null_leaves_the_group_of_volumes_to_the_platform(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "variable":
        monkeypatch.setenv("ALIGNTUNE_OPERATOR_FS_GROUP", "null")
    else:
        monkeypatch.setattr(sys, "argv", ["aligntune-operator", "--fs-group", "null"])
    assert load_settings().fs_group is None


def test_variables_of_training_pods_are_names_and_values_as_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALIGNTUNE_OPERATOR_TRAINER_ENV", '[{"name": "A", "value": "1"}]')
    assert [(variable.name, variable.value) for variable in load_settings().trainer_env] == [
        ("A", "1")
    ]
    monkeypatch.setenv("ALIGNTUNE_OPERATOR_TRAINER_ENV", '[{"name": "1 A", "value": "1"}]')
    with pytest.raises(ConfigError, match=r"^--trainer-env \(ALIGNTUNE_OPERATOR_TRAINER_ENV\): "):
        load_settings()


def test_no_variable_of_training_pods_takes_the_place_of_the_operators_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = '[{"name": "ALIGNTUNE_POD_UID", "value": "1"}]'
    monkeypatch.setenv("ALIGNTUNE_OPERATOR_TRAINER_ENV", told)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert str(caught.value) == (
        "--trainer-env (ALIGNTUNE_OPERATOR_TRAINER_ENV): ALIGNTUNE_POD_UID begins with ALIGNTUNE_,"
        " as the operator's own do: leave it out"
    )
