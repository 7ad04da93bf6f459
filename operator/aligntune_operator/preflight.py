"""What a job names and somebody else must have made: looked for before a GPU is taken."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from aligntune.api import labels
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.names import MODEL
from aligntune.api.status import Source
from aligntune_operator.observe import AlignTuneJobState
from aligntune_operator.render.pod import model_cache
from aligntune_operator.settings import Settings
from aligntune_operator.stages import find_path
from aligntune_operator.status.conditions import finished


class Need(NamedTuple):
    """An object that a job names."""

    kind: str
    api: str
    plural: str
    name: str
    field: str
    """Where the job names it."""
    remedy: str

    @property
    def missing(self) -> str:
        """What to say when it is not there."""
        return (
            f"{self.field}: there is no {self.kind} {self.name} in this namespace; {self.remedy}."
        )


def needs(
    spec: AlignTuneJobSpec,
    lineage: Sequence[Source],
    queue_labels: Mapping[str, str],
    settings: Settings,
) -> list[Need]:
    """What must be there, each once; Secrets are never read, their absence shows in the pod."""
    found = {(need.kind, need.name): need for need in _needs(spec, lineage, queue_labels, settings)}
    return list(found.values())


def folder_in_use(
    state: AlignTuneJobState,
    spec: AlignTuneJobSpec,
    others: Iterable[AlignTuneJobState],
    has_begun: Callable[[AlignTuneJobState], bool],
) -> str:
    """Which job writes to the folder that this one names, or has its model there that this one
    starts from; empty if none does.

    Two that have not begun let each other in by age, so that none waits for the other for ever.

    Args:
        state: The job.
        spec: Its spec.
        others: All jobs.
        has_begun: Whether another may already write, or is about to.
    """
    if spec.storage is None or not spec.storage.sub_path:
        return ""  # a folder of its own
    claim, folder = spec.storage.claim_name, spec.storage.sub_path
    for source in state.status.lineage:
        if (source.claim_name, source.path) == (claim, f"{folder}/{MODEL}"):
            return (
                f"spec.storage.subPath: the model of AlignTuneJob {source.job}, which this job"
                f" starts from, is in the folder {folder}: name another folder."
            )
    there = [other for other in others if other.key.namespace == state.key.namespace]
    waits_for = {other.key.name: other.from_jobs for other in there}
    for other in there:
        storage = other.spec.get("storage") or {}
        same = (storage.get("claimName"), storage.get("subPath")) == (claim, folder)
        another = same and other.uid != state.uid
        if another and _goes_first(other, state, waits_for, has_begun):
            return (
                f"spec.storage.subPath: AlignTuneJob {other.key.name}, which is not over, writes to"
                f" the folder {folder} of claim {claim} as well: wait for it, delete it, or"
                " name another folder."
            )
    return ""


def _goes_first(
    other: AlignTuneJobState,
    state: AlignTuneJobState,
    waits_for: Mapping[str, Sequence[str]],
    has_begun: Callable[[AlignTuneJobState], bool],
) -> bool:
    if other.deleting or finished(other.status):
        return False
    if find_path(other.key.name, state.key.name, lambda name: waits_for.get(name, ())):
        return False  # it starts from this one's model, whenever it was created
    older = (other.created, other.uid) < (state.created, state.uid)
    return older or has_begun(other)


def _needs(
    spec: AlignTuneJobSpec,
    lineage: Sequence[Source],
    queue_labels: Mapping[str, str],
    settings: Settings,
) -> Iterator[Need]:
    for index, volume in enumerate(spec.runtime.volumes):
        if volume.persistent_volume_claim:
            name = volume.persistent_volume_claim.claim_name
            yield _claim(name, f"spec.runtime.volumes[{index}]")
    for source in lineage:
        if source.claim_name:
            yield _claim(source.claim_name, f"the model of AlignTuneJob {source.job}")
    if spec.storage and spec.storage.claim_name:
        yield _claim(spec.storage.claim_name, "spec.storage.claimName")
    if cache := model_cache(spec.runtime, settings):
        yield _claim(cache, "the operator's setting modelCache")
    if account := spec.runtime.service_account_name:
        field = "spec.runtime.serviceAccountName"
        yield Need(
            "ServiceAccount",
            "api/v1",
            "serviceaccounts",
            account,
            field,
            "create it or name another",
        )
    if queue := queue_labels.get(labels.QUEUE_NAME):
        field = f"metadata.labels['{labels.QUEUE_NAME}']"
        remedy = "create it, name another, or install Kueue"
        yield Need("LocalQueue", labels.QUEUE_API, "localqueues", queue, field, remedy)


def _claim(name: str, field: str) -> Need:
    remedy = "create it or name another"
    return Need("PersistentVolumeClaim", "api/v1", "persistentvolumeclaims", name, field, remedy)
