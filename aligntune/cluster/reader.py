"""Commands that print files of the storage, and the pod that runs them where no pod is left."""

from collections.abc import Mapping, Sequence
from typing import Any

from aligntune.api import labels
from aligntune.api.env import STORAGE_DIR
from aligntune.api.names import CURVE, MEASURED, RANK_LOG, attempt_folder
from aligntune.cluster.job import Job

CONTAINER = "reader"
LONGEST_BYTES = 8 * 2**20
"""What is read at most, from the end of the files. The kubelet begins a new log file at 10 MiB and
shows the newest only."""
DEADLINE_SECONDS = 600
"""When the pod is ended, if whoever made it cannot."""

ALL_LINES = "+1"
"""`tail`'s word for everything."""

_FILE = RANK_LOG.format(rank="$rank")
READ_LOGS = f"""\
cd "$1" || exit 66
lines=$2; prefixed=$3; shift 3
share=$(({LONGEST_BYTES} / $#))
for rank; do
  file={_FILE}
  if [ -n "$prefixed" ]; then mark="[rank $rank] "; else mark=; fi
  if [ ! -f "$file" ]; then echo "${{mark}}no $file in $PWD"; continue; fi
  if [ "$(wc -c < "$file")" -gt $share ]; then echo "${{mark}}... the last $share bytes:"; fi
  tail -c $share "$file" | tail -n "$lines" | sed "s/^/$mark/"
done
"""
FOLLOW_LOGS = f"""\
cd "$1" || exit 66
shift
for from; do
  rank=${{from%:*}} first=${{from#*:}}
  case $first in
    +*) first=${{first#+}} ;;
    *) first=$(($(cat "{_FILE}" 2>/dev/null | wc -l) - first + 1)); [ $first -gt 0 ] || first=1 ;;
  esac
  tail -n "+$first" -F "{_FILE}" 2>/dev/null \\
    | grep -an --line-buffered "" | sed -u "s/^/[rank $rank] $first+/" &
done
wait
"""
READ_CURVES = f"""\
cd "$1" || exit 66
shift
for file; do
  if [ -f "$file" ]; then tail -c $(({LONGEST_BYTES} / $#)) "$file"; fi
done
"""


def log_command(
    job: Job, attempt: int, ranks: Sequence[int], *, tail: int | None, prefixed: bool
) -> list[str]:
    """Prints the logs of ranks, in a pod that mounts the storage.

    Args:
        job: The job.
        attempt: Number of the attempt.
        ranks: The ranks.
        tail: So many lines of each; None: all.
        prefixed: Whether `[rank N]` goes before each line, as the launcher does it.
    """
    mark = "yes" if prefixed else ""
    folder = _folder(job, attempt)
    return ["sh", "-c", READ_LOGS, "sh", folder, _lines(tail), mark, *map(str, ranks)]


def follow_command(
    job: Job, attempt: int, ranks: Sequence[int], tail: int | None, shown: Mapping[int, int]
) -> list[str]:
    """Prints the logs of ranks and what is added to them, each line as `NUMBERED`.

    Args:
        job: The job.
        attempt: Number of the attempt.
        ranks: The ranks.
        tail: So many lines of each before those that are added; None: all.
        shown: How many lines of a rank were shown before; it goes on with the next.
    """
    froms = [f"{r}:{f'+{shown[r] + 1}' if r in shown else _lines(tail)}" for r in ranks]
    return ["sh", "-c", FOLLOW_LOGS, "sh", _folder(job, attempt), *froms]


def curve_command(job: Job) -> list[str]:
    """Prints the files with the numbers of each step."""
    return ["sh", "-c", READ_CURVES, "sh", job.output_path, CURVE, MEASURED]


def reader_pod(job: Job, claim: str, image: str, command: Sequence[str]) -> dict[str, Any]:
    """A pod that mounts the claim read-only, runs a command and ends.

    It goes where the job's pods may go, since their storage can be reached from there, and belongs
    to the job, so that it is removed with it. It has the labels and annotations of the job's pods,
    since a cluster's owner may want them, and no sidecar, which would outlive it, unless these ask
    for one. It lacks the label by which the operator and the job's Service know pods that train.
    """
    runtime = job.runtime
    placement = {
        "nodeSelector": runtime.node_selector,
        "tolerations": [t.model_dump(exclude_none=True) for t in runtime.tolerations],
        "serviceAccountName": runtime.service_account_name,
        "imagePullSecrets": [s.model_dump(exclude_none=True) for s in runtime.image_pull_secrets],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{job.name}-reader-",
            "labels": labels.NO_SIDECAR_LABELS
            | runtime.labels
            | {
                labels.APP_NAME: "aligntune",
                labels.APP_INSTANCE: job.name,
                labels.APP_COMPONENT: CONTAINER,
            },
            "annotations": labels.NO_SIDECAR_ANNOTATIONS | runtime.annotations,
            "ownerReferences": [
                {
                    "apiVersion": labels.API_VERSION,
                    "kind": labels.KIND,
                    "name": job.name,
                    "uid": job.uid,
                }
            ],
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": CONTAINER,
                    "image": image,
                    "command": list(command),
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "32Mi"},
                        "limits": {"cpu": "1", "memory": "64Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {
                            "name": labels.STORAGE_VOLUME,
                            "mountPath": STORAGE_DIR,
                            "readOnly": True,
                        }
                    ],
                }
            ],
            "volumes": [
                {
                    "name": labels.STORAGE_VOLUME,
                    "persistentVolumeClaim": {"claimName": claim, "readOnly": True},
                }
            ],
            **{name: value for name, value in placement.items() if value},
        },
    }


def _folder(job: Job, attempt: int) -> str:
    return f"{job.output_path}/{attempt_folder(attempt)}"


def _lines(tail: int | None) -> str:
    return ALL_LINES if tail is None else str(tail)
