import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aligntune.api.progress import Duration, Durations, Progress, Snapshot
from aligntune.api.run import JobIdentity
from aligntune.pod.attempt import CannotStartError
from aligntune.pod.endpoint import ALL_INTERFACES, LOOPBACK, MAX_CONNECTIONS, Endpoint
from aligntune.pod.gpus import Gpu
from tests.cluster.processes import wait_until

SNAPSHOT = Snapshot(
    attempt=2,
    pod_uid="pod-1",
    progress=Progress(step=10, total_steps=40, activity="training", tokens_per_second=9100),
    metrics={"loss": 1.5, "learningRate": 1e-4, "rewards/margins": 0.25},
    durations=Durations(
        step=Duration(count=10, seconds=30), checkpoint=Duration(count=2, seconds=1.5)
    ),
    attempt_seconds=40,
)
GPUS = (Gpu(0, 20 << 30, 80 << 30, 0.9), Gpu(1, 10 << 30, 40 << 30, None))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    job = JobIdentity(name="support-bot", namespace="research")
    with Endpoint(
        host=LOOPBACK, port=0, job=job, snapshot=SNAPSHOT, read_gpus=lambda: GPUS
    ) as endpoint:
        yield endpoint


def get(endpoint: Endpoint, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def answers(endpoint: Endpoint) -> bool:
    try:
        return get(endpoint, "/healthz") == "ok\n"
    except OSError:
        return False


def test_progress_is_the_snapshot_in_camel_case(endpoint: Endpoint) -> None:
    answer = json.loads(get(endpoint, "/progress"))
    assert answer["podUid"] == "pod-1"
    assert answer["progress"]["totalSteps"] == 40
    assert Snapshot.model_validate(answer) == SNAPSHOT


def test_a_new_snapshot_is_what_comes_next(endpoint: Endpoint) -> None:
    endpoint.snapshot = SNAPSHOT.model_copy(update={"attempt": 3})
    assert json.loads(get(endpoint, "/progress"))["attempt"] == 3


def test_metrics_can_be_read_by_prometheus(endpoint: Endpoint) -> None:
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(get(endpoint, "/metrics"))
        for sample in family.samples
    }
    assert samples["aligntune_train_step",] == 10
    assert samples["aligntune_train_progress_ratio",] == 0.25
    assert samples["aligntune_train_tokens_per_second",] == 9100
    assert samples["aligntune_train_loss",] == 1.5
    assert samples["aligntune_train_learning_rate",] == 1e-4
    assert samples["aligntune_train_metric", "rewards/margins"] == 0.25
    assert samples["aligntune_train_activity", "training"] == 1
    assert samples["aligntune_train_activity", "loading"] == 0
    assert samples["aligntune_train_info", "2", "research", "support-bot"] == 1
    assert samples["aligntune_train_step_seconds_sum",] == 30
    assert samples["aligntune_train_step_seconds_count",] == 10
    assert samples["aligntune_train_checkpoint_seconds_sum",] == 1.5
    assert samples["aligntune_train_goodput_ratio",] == 0.75
    assert samples["aligntune_train_gpu_memory_used_bytes", "1"] == 10 << 30
    assert samples["aligntune_train_gpu_utilization_ratio", "0"] == 0.9
    assert ("aligntune_train_gpu_utilization_ratio", "1") not in samples, "not told of a part"
    assert ("aligntune_train_eta_seconds",) not in samples


def test_health_follows_the_ranks(endpoint: Endpoint) -> None:
    assert get(endpoint, "/healthz") == "ok\n"
    endpoint.healthy = False
    with pytest.raises(urllib.error.HTTPError, match="503"):
        get(endpoint, "/healthz")


def test_only_get_and_only_known_paths(endpoint: Endpoint) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(endpoint, "/")
    request = urllib.request.Request(f"http://127.0.0.1:{endpoint.port}/progress", data=b"x")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request, timeout=5)


def test_silent_connections_are_limited_and_leave_room_when_they_go(endpoint: Endpoint) -> None:
    silent = [
        socket.create_connection((LOOPBACK, endpoint.port), timeout=5)
        for _ in range(MAX_CONNECTIONS)
    ]
    extra = socket.create_connection((LOOPBACK, endpoint.port), timeout=5)
    assert extra.recv(1) == b""
    for connection in (*silent, extra):
        connection.close()
    for _ in range(MAX_CONNECTIONS):
        wait_until("it answers", lambda: answers(endpoint))


def test_a_taken_port_is_one_sentence(endpoint: Endpoint) -> None:
    with pytest.raises(CannotStartError, match=rf"port {endpoint.port}: address already in use"):
        Endpoint(host=LOOPBACK, port=endpoint.port, job=endpoint.job, snapshot=SNAPSHOT)


def test_in_a_pod_it_answers_on_every_interface() -> None:
    job = JobIdentity()
    with Endpoint(host=ALL_INTERFACES, port=0, job=job, snapshot=SNAPSHOT) as endpoint:
        assert get(endpoint, "/healthz") == "ok\n"
