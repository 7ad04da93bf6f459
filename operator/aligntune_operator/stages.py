"""Stages: jobs that start from the models of other jobs, such as SFT, then DPO, then GRPO."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from aligntune.api import env
from aligntune.api.causes import Cause
from aligntune.api.conditions import Condition
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.status import Failure, Source
from aligntune.core.config.model import LoraConfig, ModelConfig, ModelRef
from aligntune_operator.observe import AlignTuneJobState, Observed
from aligntune_operator.status.conditions import holds

LONGEST_CAUSE = 1024
"""Characters of another job's failure in this one's: each stage adds its own words."""


def find_path(start: str, goal: str, waits_for: Callable[[str], Iterable[str]]) -> list[str]:
    """From one job to another, or back to itself, through jobs that each wait for the next; [] if
    none.
    """
    ways, seen = [[start]], set[str]()
    while ways:
        found = ways.pop()
        for source in waits_for(found[-1]):
            if source == goal:
                return [*found, goal]
            if source not in seen:
                seen.add(source)
                ways.append([*found, source])
    return []


def lineage(observed: Observed) -> list[Source]:
    """Where the models are that a job waits for; [] as long as one is missing."""
    found = [_source(state) for state in observed.sources.values() if _trained(state)]
    known = [source for source in found if source is not None]
    return known if len(known) == len(observed.object.from_jobs) else []


def waiting(observed: Observed) -> str:
    """A sentence for each job whose model is waited for."""
    return " ".join(
        f"It starts from the model of AlignTuneJob {name}, which {_still(observed.sources, name)}."
        for name in observed.object.from_jobs
        if name not in observed.sources or not _trained(observed.sources[name])
    )


def failure(observed: Observed) -> Failure | None:
    """Why a model that is waited for will never come."""
    for name, state in observed.sources.items():
        if state.deleting:
            continue
        if holds(state.status, Condition.FAILED):
            error = state.status.failure.message if state.status.failure else "no reason is known"
            error = error[:LONGEST_CAUSE]
            return _failure(
                f"AlignTuneJob {name}, whose model this job starts from, failed: {error}"
            )
        if _trained(state) and _source(state) is None:
            return _failure(
                f"AlignTuneJob {name}, whose model this job starts from, has kept none: set its"
                " storage.claimName or hub.push"
            )
    return None


def model_name(source: Source) -> str:
    """What a trainer is to call a model: a repository, or a folder in its pod."""
    return source.repo_id or f"{env.SOURCES_DIR}/{source.job}"


def descent(sources: Sequence[Source], namespace: str) -> dict[str, str]:
    """For the model card: which job each model is of, by the name that the trainer knows."""
    return {
        model_name(source): f"AlignTuneJob {namespace}/{source.job} ({source.uid})"
        for source in sources
    }


def with_models(spec: AlignTuneJobSpec, names: Mapping[str, str]) -> AlignTuneJobSpec:
    """The spec with the models that it calls by their jobs called by their names.

    Adapters on such a model are saved merged into it: its folder exists in this job's pods alone.

    Args:
        spec: The spec.
        names: The name of the model of each job.
    """

    def named(ref: ModelConfig | ModelRef) -> ModelConfig | ModelRef:
        if ref.from_job is None:
            return ref
        changes: dict[str, object] = {"name": names[ref.from_job], "from_job": None}
        if isinstance(ref, ModelConfig) and ref.tuning == "lora":
            lora = ref.lora or LoraConfig()
            changes["lora"] = lora.model_copy(update={"merge_on_save": True})
        return ref.model_copy(update=changes)

    section = "sft" if spec.sft else "rl"
    models = {field: named(ref) for field, ref in spec.method.models.items()}
    return spec.model_copy(update={section: spec.method.model_copy(update=models)})


def _trained(state: AlignTuneJobState) -> bool:
    return holds(state.status, Condition.COMPLETE) and not state.deleting


def _source(state: AlignTuneJobState) -> Source | None:
    """Where a job's model is; None if it kept none."""
    spec, model = state.spec, state.status.model
    claim = (spec.get("storage") or {}).get("claimName")
    if claim and model is not None and model.path:
        return Source(job=state.key.name, uid=state.uid, claim_name=claim, path=model.path)
    push = (spec.get("hub") or {}).get("push")
    if push:
        return Source(job=state.key.name, uid=state.uid, repo_id=push["repoId"])
    return None


def _still(sources: Mapping[str, AlignTuneJobState], name: str) -> str:
    state = sources.get(name)
    if state is None:
        return "does not exist yet"
    return "is being deleted" if state.deleting else f"is {state.status.phase}"


def _failure(message: str) -> Failure:
    return Failure(reason=Cause.SOURCE_FAILED, message=message, retryable=False)
