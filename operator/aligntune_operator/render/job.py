"""The batch/v1 Job of one attempt."""

from collections.abc import Mapping, Sequence
from typing import Any

from aligntune.api import labels
from aligntune.api.exit_codes import ExitCode
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.names import job_name
from aligntune.api.status import Attempts, Source
from aligntune_operator.observe import Key
from aligntune_operator.render.config import run_config
from aligntune_operator.render.names import common_labels, metadata
from aligntune_operator.render.pod import pod_template
from aligntune_operator.settings import Settings

NO_ATTEMPTS = Attempts()
NO_LABELS: Mapping[str, str] = {}


def job(
    key: Key,
    uid: str,
    spec: AlignTuneJobSpec,
    attempt: int,
    settings: Settings,
    *,
    generation: int,
    earlier: Attempts = NO_ATTEMPTS,
    lineage: Sequence[Source] = (),
    queue_labels: Mapping[str, str] = NO_LABELS,
) -> dict[str, Any]:
    """An Indexed Job that the first failing pod ends: the operator decides on the next attempt.

    Args:
        key: Namespace and name of the AlignTuneJob.
        uid: Its UID.
        spec: Its spec.
        attempt: Number of the attempt.
        settings: The operator's.
        generation: The AlignTuneJob's, of that spec.
        earlier: The attempts before: what they have used of the deadline, and left of the batch.
        lineage: Where the models of other jobs are that it starts from.
        queue_labels: What Kueue is to know. With any, the Job begins suspended and its `suspend`,
            parallelism and template are Kueue's from then on.
    """
    metadata_labels = common_labels(key.name) | {labels.ATTEMPT: str(attempt)}
    deadline = spec.policy.active_deadline_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(
            key, uid, job_name(key.name, uid, attempt), metadata_labels | dict(queue_labels)
        )
        | {"annotations": {labels.GENERATION: str(generation)}},
        "spec": {
            "completionMode": "Indexed",
            "completions": spec.runtime.nodes,
            "parallelism": spec.runtime.nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules(queued=bool(queue_labels))},
            **({"suspend": True} if queue_labels else {}),
            **({"activeDeadlineSeconds": _left(deadline, earlier)} if deadline else {}),
            "template": pod_template(
                run_config(
                    key, uid, spec, attempt, batch_divisor=earlier.batch_divisor, lineage=lineage
                ),
                spec,
                metadata_labels,
                settings,
                lineage,
            ),
        },
    }


def _left(deadline: int, earlier: Attempts) -> int:
    """Seconds; an attempt that would have none is not started."""
    return max(deadline - earlier.active_seconds, 1)


def _failure_rules(*, queued: bool) -> list[dict[str, Any]]:
    """Rules that put the cause into the Job's own condition, which outlives its pods.

    A queue that takes its resources back suspends the Job: its pods save a checkpoint and exit as
    preempted, which must not fail it, since the queue lets the same Job go again.
    """
    final = {ExitCode.DONE, ExitCode.PREEMPTED} if queued else {ExitCode.DONE}
    codes = sorted(set(ExitCode) - final)
    stopped = {
        "action": "Ignore",
        "onExitCodes": {
            "containerName": labels.TRAINER_CONTAINER,
            "operator": "In",
            "values": [int(ExitCode.PREEMPTED)],
        },
    }
    return [
        {
            "action": "FailJob",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": labels.TRAINER_CONTAINER,
                "operator": "In",
                "values": [int(code) for code in codes],
            },
        },
        *([stopped] if queued else []),
    ]
