"""Whether a job fits the GPUs that it may get, by the estimate of its memory: a pure decision."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from aligntune.api.job import AlignTuneJobSpec
from aligntune.api.runtime import RuntimeSpec
from aligntune.api.status import Source
from aligntune.core.config.model import ModelConfig, ModelRef
from aligntune.core.memory.estimate import estimate, fits
from aligntune.core.memory.shape import ModelShape

GIB, MIB = 2**30, 2**20

REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?")
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,127}")
"""What the hub calls its repositories and their revisions; everything else is a folder's name."""

OTHER_HUB = {"HF_ENDPOINT", "HF_HUB_OFFLINE"}
"""Variables with which a job says that its names are not those of the operator's hub."""


class HubModel(NamedTuple):
    """A model on the hub."""

    name: str
    revision: str


def estimable(spec: AlignTuneJobSpec) -> bool:
    """Whether an estimate says anything of a job.

    On CPUs memory is not the GPU's, and what Unsloth's and Liger's kernels save is not counted.
    """
    saves = spec.backend != "trl" or (spec.sft is not None and spec.sft.train.liger_kernel)
    elsewhere = OTHER_HUB & {variable.name for variable in spec.runtime.env}
    return spec.runtime.gpus_per_node > 0 and not saves and not elsewhere


def hub_model(ref: ModelConfig | ModelRef, lineage: Sequence[Source]) -> HubModel | None:
    """Where on the hub a model is that a job names; None if it is in a folder or a claim."""
    name, revision = ref.name, ref.revision
    if ref.from_job is not None:
        repos = (source.repo_id for source in lineage if source.job == ref.from_job)
        name, revision = next(repos, None) or "", "main"
    named = REPOSITORY.fullmatch(name) and REVISION.fullmatch(revision)
    return HubModel(name, revision) if named and ".." not in name + revision else None


def memory_label(gpu_resource: str) -> str:
    """The node label with a GPU's memory in MiB, as GPU feature discovery sets it."""
    return f"{gpu_resource}.memory"


def largest_gpu(nodes: Iterable[Mapping[str, str]], runtime: RuntimeSpec) -> int | None:
    """Bytes of the largest GPU on the nodes that the job's nodeSelector leaves.

    Args:
        nodes: The labels of each node.
        runtime: Where the job runs; of its affinity nothing is taken into account.

    Returns:
        None where no label tells.
    """
    label, wanted = memory_label(runtime.gpu_resource), runtime.node_selector.items()
    sizes = (labels.get(label, "") for labels in nodes if wanted <= labels.items())
    return max(
        (int(size) * MIB for size in sizes if re.fullmatch("[0-9]{1,9}", size)), default=None
    )


def shortage(
    spec: AlignTuneJobSpec, shape: ModelShape, reward_model: ModelShape | None, gpu_bytes: int
) -> str:
    """A sentence that says what the job needs, what there is, and what to change; empty if it fits.

    Where only the tolerance of the estimate decides, it fits.

    Args:
        spec: The job.
        shape: That of its model.
        reward_model: That of its reward model, if it has one.
        gpu_bytes: Memory of the largest GPU that it may get.
    """
    found = estimate(
        spec.method,
        shape,
        processes=spec.runtime.world_size,
        gpu=True,
        reward_model=reward_model,
    )
    if fits(found, gpu_bytes) != "too large":
        return ""
    most = max(found.parts, key=lambda part: part.at.get(found.peak, 0))
    *others, last = _remedies(spec)
    return (
        f"spec.{'sft' if spec.sft else 'rl'}: by the estimate it needs {found.total / GIB:.1f} GiB"
        f" on each GPU, {most.at[found.peak] / GIB:.1f} of them for {most.name}, and the largest"
        f" GPU that spec.runtime lets it have has {gpu_bytes / GIB:.1f} GiB:"
        f" {', '.join(others)} or {last}."
    )


def _remedies(spec: AlignTuneJobSpec) -> Iterator[str]:
    """What would lower the need, and is not done yet."""
    model, train = spec.method.model, spec.method.train
    strategy = spec.method.distributed.strategy
    if train.per_device_batch_size > 1:
        yield f"lower train.perDeviceBatchSize ({train.per_device_batch_size})"
    if train.gradient_checkpointing is False:
        yield "set train.gradientCheckpointing"
    if model.tuning == "full":
        yield "set model.tuning to lora"
    elif model.quantization is None and strategy == "ddp":
        yield "set model.quantization"
    if spec.runtime.world_size > 1 and strategy == "ddp":
        yield "set distributed.strategy to fsdp2"
    yield "shorten model.maxLength"
    yield "choose nodes with larger GPUs"
