"""Every method trains by kubectl apply: the manifests in examples/, cut short."""

from typing import Any

import pytest

from tests.e2e.conftest import Tenant, example

SHORT: dict[str, dict[str, Any]] = {
    "classification-topics": {"train": {"maxSteps": 2}},
    "dpo-answers": {"train": {"maxSteps": 2}},
    "grpo-sums": {"train": {"maxSteps": 2}},
    "ppo-sums": {
        "train": {"maxSteps": 2},
        "ppo": {"rolloutBatchSize": 16, "epochs": 1, "minibatches": 1},
    },
    "reward-answers": {"train": {"maxSteps": 2}},
    "sft-unsloth": {"train": {"maxSteps": 2}},
}
"""Sections laid over an example; held-out rows are left out, each costs a forward pass."""
TOLD = {
    "classification-topics": "loss",
    "dpo-answers": "rewardAccuracy",
    "grpo-sums": "rewardMean",
    "ppo-sums": "rewardMean",
    "reward-answers": "rewardAccuracy",
    "sft-unsloth": "loss",
}
"""A number of the method's own that the status shows."""


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("operator")
class TestMethods:
    """One job after the other."""

    @pytest.mark.parametrize("name", SHORT)
    def test_a_method_trains_and_tells_its_own_numbers(self, tenant: Tenant, name: str) -> None:
        manifest = example(name)
        spec = manifest["spec"]
        section = spec.get("sft") or spec["rl"]
        section.pop("evaluation", None)
        for part, values in SHORT[name].items():
            section[part] = section.get(part, {}) | values
        tenant.apply(manifest)
        status = tenant.until_succeeded(name)
        assert (status["progress"]["step"], status["progress"]["totalSteps"]) == (2, 2)
        assert TOLD[name] in status["metrics"]
        assert (tenant.models / status["model"]["path"] / "adapter_config.json").is_file()
        tenant("delete", "atj", name)
