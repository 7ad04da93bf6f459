"""Whether a service mesh puts its sidecar into a job's pods."""

from datetime import UTC, datetime
from typing import Any

from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.status import AlignTuneJobStatus
from aligntune.cluster.job import Job
from aligntune.cluster.reader import reader_pod
from aligntune_operator.observe import Key
from aligntune_operator.render.config import run_config
from aligntune_operator.render.pod import pod_template
from aligntune_operator.settings import Settings

ISTIO, LINKERD = "sidecar.istio.io/inject", "linkerd.io/inject"
JOB = {
    "sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]},
    "storage": {"claimName": "c"},
}


def told(runtime: dict[str, Any], **settings: Any) -> tuple[str | None, str | None]:
    """What a job's pods tell Istio and Linkerd."""
    spec = AlignTuneJobSpec.parse(JOB | {"runtime": runtime})
    config = run_config(Key("default", "job"), "1-2", spec, 1)
    metadata = pod_template(config, spec, {}, Settings(_env_file=None, **settings), ())["metadata"]
    return metadata["labels"].get(ISTIO), metadata["annotations"].get(LINKERD)


def reader_told(runtime: dict[str, Any]) -> tuple[str | None, str | None]:
    """What a pod that reads the job's storage tells them."""
    created = datetime(2026, 11, 1, tzinfo=UTC)
    job = Job("job", "default", "1-2", created, JOB | {"runtime": runtime}, AlignTuneJobStatus())
    metadata = reader_pod(job, "c", "trainer", ["true"])["metadata"]
    return metadata["labels"].get(ISTIO), metadata["annotations"].get(LINKERD)


def test_a_sidecar_that_would_outlive_the_training_is_kept_out() -> None:
    assert told({}) == ("false", "disabled")


def test_a_sidecar_that_would_outlive_the_reading_of_the_storage_is_kept_out() -> None:
    assert reader_told({}) == ("false", "disabled")


def test_a_job_may_ask_for_the_sidecar() -> None:
    own = {"labels": {ISTIO: "true"}, "annotations": {LINKERD: "enabled"}}
    assert told(own) == ("true", "enabled")
    assert reader_told(own) == ("true", "enabled")


def test_a_clusters_owner_may_leave_it_to_the_mesh() -> None:
    assert told({}, mesh_sidecar=True) == (None, None)
