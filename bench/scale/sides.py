"""What is compared: kinds of objects that each become a Job, and how to tell."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aligntune.api import labels
from bench.scale.watcher import Sight, sights

NAMESPACE = "bench"
TRAINER_API = "trainer.kubeflow.org/v1alpha1"
Object = dict[str, Any]


class Side(NamedTuple):
    """A kind of object."""

    name: str
    path: str
    """Of its collection."""
    make: Callable[[str], Object]
    """An object of that name."""
    label: str
    """A label of its Jobs and pods whose value is its name."""
    phase: Callable[[Object], str]
    """`running`, `succeeded` or nothing, by its status."""
    done: str
    """What the JSON of an object holds that has succeeded."""


def align_tune_job(name: str) -> Object:
    """The smallest that needs nothing else."""
    return {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "metadata": {"name": name},
        "spec": {
            "sft": {"model": {"name": "m"}, "datasets": [{"name": "d"}]},
            "runtime": {"gpusPerNode": 0, "resources": {"requests": {"cpu": "10m"}}},
            "storage": {"ephemeral": True},
        },
    }


def plain_job(name: str) -> Object:
    """A Job with one small pod."""
    mark = {labels.JOB_NAME: name}
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": "10m"}}}
    pod = {"restartPolicy": "Never", "containers": [container]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": mark},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": mark}, "spec": pod}},
    }


def train_job(name: str) -> Object:
    """Kubeflow Trainer's, of one node and one process, on the runtime for PyTorch that it ships."""
    resources = {"requests": {"cpu": "10m"}}
    return {
        "apiVersion": TRAINER_API,
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": {"numNodes": 1, "numProcPerNode": 1, "resourcesPerNode": resources},
        },
    }


def _our_phase(body: Object) -> str:
    phase = body.get("status", {}).get("phase", "")
    return {"Running": "running", "Succeeded": "succeeded"}.get(phase, "")


def _jobs_phase(body: Object) -> str:
    """Also of a TrainJob, whose status tells of nothing but the end."""
    status = body.get("status", {})
    kinds = [c["type"] for c in status.get("conditions", ()) if c["status"] == "True"]
    if "Complete" in kinds:
        return "succeeded"
    return "running" if status.get("active") else ""


JOBS = f"apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"api/v1/namespaces/{NAMESPACE}/pods"
EVENTS = f"api/v1/namespaces/{NAMESPACE}/events"
OURS = Side(
    "AlignTuneJob",
    f"apis/{labels.API_VERSION}/namespaces/{NAMESPACE}/{labels.PLURAL}",
    align_tune_job,
    labels.JOB_NAME,
    _our_phase,
    '"status":"True","type":"Complete"',
)
PLAIN = Side(
    "Job", JOBS, plain_job, labels.JOB_NAME, _jobs_phase, '"type":"Complete","status":"True"'
)
THEIRS = Side(
    "TrainJob",
    f"apis/{TRAINER_API}/namespaces/{NAMESPACE}/trainjobs",
    train_job,
    "jobset.sigs.k8s.io/jobset-name",
    _jobs_phase,
    OURS.done,
)


def paths(side: Side) -> dict[str, str]:
    """The streams to watch."""
    children = {"jobs": JOBS, "pods": PODS, "events": EVENTS}
    return children if side.path == JOBS else {"objects": side.path, **children}


def timeline(side: Side, folder: Path, created: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """When each object that was created reached which milestone."""
    found = {name: {"created": at} for name, at in created.items()}

    def note(name: str, milestone: str, sight: Sight) -> None:
        if name in found:
            found[name].setdefault(milestone, sight.at)

    for sight in sights(folder, "jobs" if side.path == JOBS else "objects"):
        name = sight.body["metadata"]["name"]
        note(name, "object", sight)
        if phase := side.phase(sight.body):
            note(name, "running", sight)
            if phase == "succeeded":
                note(name, phase, sight)
    for milestone in ("job", "pod"):
        for sight in sights(folder, f"{milestone}s"):
            note(sight.body["metadata"].get("labels", {}).get(side.label, ""), milestone, sight)
    return found


def events_written(folder: Path) -> dict[str, int]:
    """Events by `component: reason`."""
    counts: dict[str, int] = {}
    for sight in sights(folder, "events"):
        component = sight.body.get("source", {}).get("component") or sight.body.get(
            "reportingComponent", ""
        )
        what = f"{component}: {sight.body['reason']}"
        counts[what] = counts.get(what, 0) + 1
    return counts
