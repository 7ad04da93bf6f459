"""Memory is estimated before a GPU is held, from a real API server's nodes and the hub's double."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import Operator
from tests.hub.configs import LLAMA_8B
from tests.hub.hub import Hub
from tests.integration.conftest import Api

Make = Callable[..., dict[str, Any]]

TOO_LARGE = (
    "spec.sft: by the estimate it needs {needs} GiB on each GPU, {most} of them for weights, and"
    " the largest GPU that spec.runtime lets it have has 8.0 GiB: lower train.perDeviceBatchSize"
    " (4), set model.quantization, shorten model.maxLength or choose nodes with larger GPUs."
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "chat"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    with Hub() as hub:
        hub.add("model", "acme/chat", folder)
        hub.add("model", "acme/private", folder, private=True)
        yield hub


@pytest.fixture
def nodes(api: Api) -> Iterator[None]:
    """Two nodes with GPUs of 8 and 80 GiB, as GPU feature discovery labels them."""
    for size in (8, 80):
        name = f"{api.namespace}-{size}"
        labels = {"nvidia.com/gpu.memory": str(size * 1024), "size": name}
        metadata = {"name": name, "labels": labels}
        api.apply({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
    yield
    api("delete", "node", f"{api.namespace}-8", f"{api.namespace}-80")


@pytest.fixture
def start(control_plane: ControlPlane, hub: Hub, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts an operator that asks the hub's double."""
    log = tmp_path / "operator.log"
    running: list[Operator] = []

    def begin(mode: str, endpoint: str = hub.endpoint) -> None:
        options = ("--memory-estimate", mode, "--hub-endpoint", endpoint)
        running.append(Operator(control_plane.kubeconfig, log, *options))
        running[0].start()

    yield begin
    running[0].stop(signal.SIGKILL)
    assert "Traceback" not in log.read_text()


@pytest.fixture
def on_gpu(api: Api, manifest: Make) -> Make:
    """A job on a node whose GPUs have so many GiB."""

    def make(name: str, gib: int, model: str = "acme/chat") -> dict[str, Any]:
        sft = {"model": {"name": model}, "datasets": [{"name": "d"}]}
        selector = {"size": f"{api.namespace}-{gib}"}
        return manifest(name, sft=sft, runtime={"nodeSelector": selector})

    return make


@pytest.mark.usefixtures("nodes")
def test_a_job_that_is_too_large_begins_with_a_warning(
    api: Api, start: Callable[..., None], on_gpu: Make
) -> None:
    start("warn")
    api.apply(on_gpu("large", 8), on_gpu("small", 80))
    api.until("warned", lambda: api.condition("large", "GpuTooSmall")["status"] == "True")
    assert api.condition("large", "GpuTooSmall")["reason"] == "EstimateTooLarge"
    assert api.condition("large", "Accepted")["status"] == "True"
    assert len(api.jobs_of("large")) == 1

    def warned(name: str) -> list[str]:
        selector = f"involvedObject.name={name},type=Warning"
        found = json.loads(api("get", "events", "--field-selector", selector, "-o", "json"))
        return [event["reason"] for event in found["items"]]

    api.until("told", lambda: warned("large") == ["EstimateTooLarge"])
    api.until("the other began", lambda: api.phase("small") == "Starting")
    assert api.condition("small", "GpuTooSmall")["status"] == "absent"
    assert warned("small") == []


@pytest.mark.usefixtures("nodes")
def test_a_job_that_is_too_large_is_refused_and_mended_in_place_where_the_owner_says_so(
    api: Api, start: Callable[..., None], on_gpu: Make
) -> None:
    start("refuse")
    api.apply(on_gpu("chat", 8))
    refused = lambda: api.condition("chat", "Accepted")["reason"] == "EstimateTooLarge"  # noqa: E731
    api.until("refused", refused)
    message = api.condition("chat", "Accepted")["message"]
    needs, most = message.partition("needs ")[2].partition(" GiB")[0], "15.0"
    assert message == TOO_LARGE.format(needs=needs, most=most)
    assert api.condition("chat", "Stalled")["status"] == "True"
    assert not api.jobs_of("chat")
    api.apply(on_gpu("chat", 80))
    api.until("began", lambda: bool(api.jobs_of("chat")))
    assert api.condition("chat", "Accepted")["reason"] == "Valid"


@pytest.mark.usefixtures("nodes")
def test_a_job_whose_memory_cannot_be_told_begins(
    api: Api, start: Callable[..., None], on_gpu: Make, manifest: Make, hub: Hub
) -> None:
    start("refuse")
    folder = {"model": {"name": "/models/chat"}, "datasets": [{"name": "d"}]}
    large = on_gpu("cpu", 8)
    large["spec"]["runtime"]["gpusPerNode"] = 0
    api.apply(
        on_gpu("private", 8, "acme/private"),
        on_gpu("unknown", 8, "acme/unknown"),
        on_gpu("nowhere", 24),
        manifest("folder", sft=folder, runtime={}),
        large,
    )
    for name in ("private", "unknown", "nowhere", "folder", "cpu"):
        api.until(f"{name} began", lambda name=name: bool(api.jobs_of(name)))  # type: ignore[misc]
    asked = {f"GET /acme/{name}/resolve/main/config.json" for name in ("private", "unknown")}
    assert set(hub.requests) == asked
    assert len(hub.requests) == 2


@pytest.mark.usefixtures("nodes")
def test_a_hub_that_is_not_there_keeps_no_job_waiting(
    api: Api, start: Callable[..., None], on_gpu: Make
) -> None:
    start("refuse", "http://127.0.0.1:1")
    api.apply(on_gpu("chat", 8))
    api.until("began", lambda: bool(api.jobs_of("chat")))
