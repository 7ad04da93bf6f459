"""The file that the pod reads: a spec turned into the RunConfig of one attempt."""

from collections.abc import Sequence

from aligntune.api import env
from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.names import job_name, output_folder, service_name
from aligntune.api.run import JobIdentity, RunConfig
from aligntune.api.status import Source
from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from aligntune_operator.observe import Key
from aligntune_operator.stages import descent, model_name, with_models


def run_config(
    key: Key,
    uid: str,
    spec: AlignTuneJobSpec,
    attempt: int,
    *,
    batch_divisor: int = 1,
    lineage: Sequence[Source] = (),
    storage_root: str = env.STORAGE_DIR,
    folder: str | None = None,
) -> RunConfig:
    """All that attempt number `attempt` needs to know.

    The output folder is the same for every attempt of a job, so that the next resumes from the
    last one's checkpoint, and another for a job re-created under the same name.

    Args:
        key: Namespace and name of the job.
        uid: Its UID.
        spec: Its spec.
        attempt: Number of the attempt.
        batch_divisor: How many forward passes stand for one of the spec's: `Attempts`.
        lineage: Where the models of other jobs are that the spec asks for.
        storage_root: Where the storage is mounted.
        folder: Output folder below it, where the spec names none; by default the job's own.
    """
    chosen = spec.storage.sub_path if spec.storage else ""
    output_dir = f"{storage_root}/{output_folder(key.name, uid, chosen or folder or '')}"
    spec = with_models(spec, {source.job: model_name(source) for source in lineage})
    runtime, train = spec.runtime, spec.method.train
    divided = {
        "train": train.model_copy(
            update={
                "per_device_batch_size": train.per_device_batch_size // batch_divisor,
                "gradient_accumulation_steps": train.gradient_accumulation_steps * batch_divisor,
            }
        ),
        "output_dir": output_dir,
    }
    return RunConfig(
        backend=spec.backend,
        sft=SFTConfig(**dict(spec.sft) | divided) if spec.sft else None,
        rl=UnifiedConfig(**dict(spec.rl) | divided) if spec.rl else None,
        job=JobIdentity(name=key.name, namespace=key.namespace, uid=uid),
        attempt=attempt,
        nodes=runtime.nodes,
        processes_per_node=runtime.processes,
        master_address=_master(key, uid, attempt) if runtime.nodes > 1 else "127.0.0.1",
        push=spec.hub.push,
        lineage=descent(lineage, key.namespace) or None,
        storage_root=storage_root,
        stall_timeout_seconds=spec.policy.stall_timeout_seconds,
        on_stall=spec.policy.on_stall,
    )


def _master(key: Key, uid: str, attempt: int) -> str:
    """The stable host name that an Indexed Job and its headless Service give pod 0."""
    pod = f"{job_name(key.name, uid, attempt)}-0"
    return f"{pod}.{service_name(key.name, uid)}.{key.namespace}.svc"
