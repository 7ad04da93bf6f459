"""Whether a service mesh puts its sidecar into a training pod."""

from typing import Any

from aligntune.api.job import AlignTuneJobSpec
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


def test_a_sidecar_that_would_outlive_the_training_is_kept_out() -> None:
    assert told({}) == ("false", "disabled")


def test_a_job_may_ask_for_the_sidecar() -> None:
    own = {"labels": {ISTIO: "true"}, "annotations": {LINKERD: "enabled"}}
    assert told(own) == ("true", "enabled")


def test_a_clusters_owner_may_leave_it_to_the_mesh() -> None:
    assert told({}, mesh_sidecar=True) == (None, None)
