"""The cluster's cache of models in training pods: whose claim is mounted, and where."""

from typing import Any

import pytest

from aligntune.api import env
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.runtime import EnvVar
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


def pod_of(job: AlignTuneJobSpec, settings: Settings = SETTINGS) -> dict[str, Any]:
    config = run_config(Key("default", "job"), "1-2", job, 1)
    pod: dict[str, Any] = pod_template(config, job, {}, settings, ())["spec"]
    return pod


def mounts_at(path: str, pod: dict[str, Any]) -> list[dict[str, Any]]:
    mounts = pod["containers"][0]["volumeMounts"]
    return [mount for mount in mounts if mount["mountPath"].rstrip("/") == path]


def claim_at(path: str, job: AlignTuneJobSpec) -> str:
    """The claim that a job's pod has in a folder; every claim is the pod's once."""
    pod = pod_of(job)
    [mount] = mounts_at(path, pod)
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert len(set(claims.values())) == len(claims)
    return claims[mount["name"]]


def mounting(claim: str, path: str, *, read_only: bool = False) -> dict[str, Any]:
    source = {"claimName": claim, "readOnly": read_only}
    volume = {"name": "own", "persistentVolumeClaim": source}
    return {"volumes": [volume], "volumeMounts": [{"name": "own", "mountPath": path}]}


@pytest.mark.parametrize(
    ("job", "claim"),
    [
        (spec(), "cache"),
        (spec(claim="cache"), "cache"),
        (spec(mounting("cache", "/models")), "cache"),
        (spec(mounting("own-cache", MODEL_CACHE_DIR)), "own-cache"),
        (spec(mounting("own-cache", f"{MODEL_CACHE_DIR}/")), "own-cache"),
    ],
    ids=[
        "the clusters",
        "that is the storage, too",
        "that the job mounts, too",
        "the jobs own",
        "the jobs own with a slash",
    ],
)
def test_the_cache_is_one_claim_mounted_once(job: AlignTuneJobSpec, claim: str) -> None:
    assert claim_at(MODEL_CACHE_DIR, job) == claim


HF_HOME = {"name": "HF_HOME", "value": "/models"}


@pytest.mark.parametrize(
    ("job", "settings"),
    [
        (spec({"env": [HF_HOME]}), SETTINGS),
        (spec(), SETTINGS.model_copy(update={"trainer_env": (EnvVar.model_validate(HF_HOME),)})),
    ],
    ids=["by the job", "by the cluster's owner"],
)
def test_who_names_another_cache_neither_mounts_nor_waits_for_the_clusters(
    job: AlignTuneJobSpec, settings: Settings
) -> None:
    assert not mounts_at(MODEL_CACHE_DIR, pod_of(job, settings))
    assert "cache" not in {need.name for need in needs(job, (), {}, settings)}


@pytest.mark.parametrize("claim", ["cache", "models"], ids=["the cache", "the storage"])
def test_a_claim_that_a_job_reads_only_can_be_written_by_its_trainer(claim: str) -> None:
    """The kubelet mounts it once: a volume that is read-only would be so for HF_HOME, too."""
    pod = pod_of(spec(mounting(claim, "/models", read_only=True)))
    claims = [v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert {"claimName": claim} in claims
    assert not [source for source in claims if source.get("readOnly")]
    [own] = mounts_at("/models", pod)
    assert own["readOnly"]
    for path in (MODEL_CACHE_DIR, env.STORAGE_DIR):
        [mount] = mounts_at(path, pod)
        assert "readOnly" not in mount


def test_a_claim_that_is_only_read_stays_a_read_only_volume() -> None:
    """Some can be attached in no other way."""
    pod = pod_of(spec(mounting("data", "/data", read_only=True)))
    [own] = [volume for volume in pod["volumes"] if volume["name"] == "own"]
    assert own["persistentVolumeClaim"] == {"claimName": "data", "readOnly": True}


def test_a_cache_that_is_missing_is_told_unless_the_job_has_its_own() -> None:
    [told] = [need.missing for need in needs(spec(), (), {}, SETTINGS) if need.name == "cache"]
    assert told == (
        "the operator's setting modelCache: there is no PersistentVolumeClaim cache in this"
        " namespace; create it or name another."
    )
    own = needs(spec(mounting("own-cache", MODEL_CACHE_DIR)), (), {}, SETTINGS)
    assert "cache" not in {need.name for need in own}
