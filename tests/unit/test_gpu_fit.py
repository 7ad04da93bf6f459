"""Whether a job fits its GPUs: what is estimated, what of nodes counts, what people are told."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.status import Source
from aligntune.core.errors import ConfigError
from aligntune.core.memory.shape import FAMILIES, LARGEST_NUMBER, MOST_LAYERS, shape_of
from aligntune_operator.memory import (
    GIB,
    HubModel,
    estimable,
    hub_model,
    largest_gpu,
    shortage,
)
from tests.hub.configs import LLAMA_8B


def spec_of(
    model: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **sections: Any
) -> AlignTuneJobSpec:
    sft = {
        "model": {"name": "acme/chat"} | (model or {}),
        "datasets": [{"name": "d"}],
        "train": train or {},
    }
    return AlignTuneJobSpec.parse({"sft": sft, "storage": {"claimName": "c"}} | sections)


@pytest.mark.parametrize(
    "sections",
    [
        {"runtime": {"gpusPerNode": 0}},
        {"backend": "unsloth"},
        {"train": {"ligerKernel": True}},
        {"runtime": {"env": [{"name": "HF_ENDPOINT", "value": "http://hub.example"}]}},
        {"runtime": {"env": [{"name": "HF_HUB_OFFLINE", "value": "1"}]}},
    ],
    ids=["cpu", "unsloth", "liger", "another-hub", "offline"],
)
def test_nothing_is_estimated_where_the_estimate_says_nothing(sections: dict[str, Any]) -> None:
    assert estimable(spec_of())
    assert not estimable(spec_of(**sections))


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("/models/chat", "main"),
        ("./chat", "main"),
        ("~/chat", "main"),
        ("a/b/c", "main"),
        ("../../api/whoami", "main"),
        ("acme/../chat", "main"),
        ("acme/chat?x", "main"),
        ("acme/chat#", "main"),
        ("acme/chät", "main"),
        ("acme/chat", "../../x"),
        ("acme/chat", "main?x"),
        ("acme/chat", "refs/../x"),
    ],
)
def test_a_folder_or_a_name_that_the_hub_cannot_have_is_never_asked_for(
    name: str, revision: str
) -> None:
    assert hub_model(spec_of({"name": name, "revision": revision}).method.model, ()) is None


@pytest.mark.parametrize(
    ("name", "revision"),
    [("gpt2", "main"), ("meta-llama/Llama-3.2-3B", "v1.0"), ("acme/chat", "refs/pr/1")],
)
def test_a_name_of_the_hub_is_asked_for_at_its_revision(name: str, revision: str) -> None:
    ref = spec_of({"name": name, "revision": revision}).method.model
    assert hub_model(ref, ()) == HubModel(name, revision)


def test_another_jobs_model_is_asked_for_where_it_is_on_the_hub() -> None:
    ref = AlignTuneJobSpec.parse({
        "sft": {"model": {"fromJob": "chat"}, "datasets": [{"name": "d"}]},
        "storage": {"claimName": "c"},
    }).method.model  # fmt: skip
    pushed = Source(job="chat", uid="1", repo_id="acme/chat")
    stored = Source(job="chat", uid="1", claim_name="models", path="chat/model")
    assert hub_model(ref, [pushed]) == HubModel("acme/chat", "main")
    assert hub_model(ref, [stored]) is None
    assert hub_model(ref, []) is None


def test_the_largest_gpu_is_that_of_a_node_that_the_job_may_run_on() -> None:
    nodes = [
        {"nvidia.com/gpu.memory": "81920", "zone": "a"},
        {"nvidia.com/gpu.memory": "24576", "zone": "b"},
        {"nvidia.com/gpu.memory": "16384", "zone": "b", "nvidia.com/mig-1g.10gb.memory": "9728"},
        {"zone": "b"},
    ]

    def largest(**runtime: Any) -> int | None:
        return largest_gpu(nodes, spec_of(runtime=runtime).runtime)

    assert largest() == 80 * GIB
    assert largest(nodeSelector={"zone": "b"}) == 24 * GIB
    assert largest(nodeSelector={"zone": "c"}) is None
    assert largest(gpuResource="nvidia.com/mig-1g.10gb") == 9728 * 2**20
    assert largest(gpuResource="amd.com/gpu") is None


@pytest.mark.parametrize("size", ["", "80GB", "-1", "9" * 40, "٤"])
def test_a_label_that_is_no_size_tells_nothing(size: str) -> None:
    assert largest_gpu([{"nvidia.com/gpu.memory": size}], spec_of().runtime) is None


def told(gpu_bytes: int, spec: AlignTuneJobSpec) -> str:
    return shortage(spec, shape_of(LLAMA_8B, "m"), None, gpu_bytes)


def test_a_shortage_says_what_is_needed_what_there_is_and_what_to_change() -> None:
    spec = spec_of({"tuning": "full", "maxLength": 2048}, {"perDeviceBatchSize": 8})
    assert told(24 * GIB, spec) == (
        "spec.sft: by the estimate it needs 157.6 GiB on each GPU, 59.8 of them for optimizer"
        " states, and the largest GPU that spec.runtime lets it have has 24.0 GiB: lower"
        " train.perDeviceBatchSize (8), set model.tuning to lora, shorten model.maxLength or choose"
        " nodes with larger GPUs."
    )
    assert told(200 * GIB, spec) == ""


def test_what_is_done_already_is_not_advised() -> None:
    quantised = spec_of(
        {"quantization": {"bits": 4}}, {"perDeviceBatchSize": 1, "gradientCheckpointing": True}
    )
    assert told(GIB, quantised).endswith(
        ": shorten model.maxLength or choose nodes with larger GPUs."
    )
    gang = spec_of(runtime={"nodes": 2}, train={"gradientCheckpointing": False})
    assert "set train.gradientCheckpointing" in told(GIB, gang)
    assert "set distributed.strategy to fsdp2" in told(GIB, gang)


def test_where_the_tolerance_decides_it_fits() -> None:
    spec = spec_of({"quantization": {"bits": 4}})
    sizes = [size * GIB // 4 for size in range(4, 100)]
    enough = next(size for size in sizes if not told(size, spec))
    needs = float(told(enough - GIB, spec).partition("needs ")[2].partition(" ")[0])
    assert needs * 0.85 <= enough / GIB < needs


CONFIGS = st.fixed_dictionaries(
    {"model_type": st.sampled_from(sorted(FAMILIES))},
    optional={
        key: st.integers()
        | st.integers(1, MOST_LAYERS)
        | st.sampled_from([LARGEST_NUMBER, "8", 0.5])
        for key in (*LLAMA_8B, "head_dim", "tie_word_embeddings", "attention_bias")
        if key != "model_type"
    },
)


@given(config=CONFIGS)
def test_whatever_a_config_says_there_is_an_estimate_or_a_sentence(config: dict[str, Any]) -> None:
    try:
        shape = shape_of(json.loads(json.dumps(LLAMA_8B | config)), "m")
    except ConfigError:
        return
    assert told(GIB, spec_of()) is not None
    assert isinstance(shortage(spec_of({"tuning": "full"}), shape, None, 80 * GIB), str)
