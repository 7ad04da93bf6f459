"""The cluster's cache of models in training pods: whose claim is mounted, and where."""

from typing import Any

import pytest

from aligntune.api.job import AlignTuneJobSpec
from aligntune_operator.observe import Key
from aligntune_operator.preflight import needs
from aligntune_operator.render.config import run_config
from aligntune_operator.render.pod import MODEL_CACHE_DIR, pod_template
from aligntune_operator.settings import Settings

SETTINGS = Settings(_env_file=None, model_cache="cache")


def spec(runtime: dict[str, Any] | None = None, claim: str = "models") -> AlignTuneJobSpec:
    return AlignTuneJobSpec.parse(
        {
            "sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]},
            "storage": {"claimName": claim},
            "runtime": runtime or {},
        }
    )


def claim_at(path: str, job: AlignTuneJobSpec) -> str:
    """The claim that a job's pod has in a folder; every claim is the pod's once."""
    config = run_config(Key("default", "job"), "1-2", job, 1)
    pod = pod_template(config, job, {}, SETTINGS, ())["spec"]
    [mount] = [m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == path]
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert len(set(claims.values())) == len(claims)
    return claims[mount["name"]]


def mounting(claim: str, path: str) -> dict[str, Any]:
    volume = {"name": "own", "persistentVolumeClaim": {"claimName": claim}}
    return {"volumes": [volume], "volumeMounts": [{"name": "own", "mountPath": path}]}


@pytest.mark.parametrize(
    ("job", "claim"),
    [
        (spec(), "cache"),
        (spec(claim="cache"), "cache"),
        (spec(mounting("cache", "/models")), "cache"),
        (spec(mounting("own-cache", MODEL_CACHE_DIR)), "own-cache"),
    ],
    ids=["the clusters", "that is the storage, too", "that the job mounts, too", "the jobs own"],
)
def test_the_cache_is_one_claim_mounted_once(job: AlignTuneJobSpec, claim: str) -> None:
    assert claim_at(MODEL_CACHE_DIR, job) == claim


def test_a_cache_that_is_missing_is_told_unless_the_job_has_its_own() -> None:
    [told] = [need.missing for need in needs(spec(), (), {}, SETTINGS) if need.name == "cache"]
    assert told == (
        "the operator's setting modelCache: there is no PersistentVolumeClaim cache in this"
        " namespace; create it or name another."
    )
    own = needs(spec(mounting("own-cache", MODEL_CACHE_DIR)), (), {}, SETTINGS)
    assert "cache" not in {need.name for need in own}
