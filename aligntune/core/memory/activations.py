"""What the forward pass keeps for the backward pass, in bytes.

Korthikanti et al. 2022 (arXiv:2205.05198), section 4, count what each operation of a layer keeps.
The same is done here for the layers that we train: RMS norms in float32, rotated queries and keys,
a gated MLP, adapters. The attention kernels keep no scores, which is what their section 4.2
recomputes scores for; `eager` does keep them.
"""

from collections.abc import Sequence

from aligntune.core.memory.states import adapted
from aligntune.core.memory.workload import FULL, Workload


def bytes_kept(work: Workload) -> float:
    """What is kept of a batch until its loss is known: all of each layer, or its input alone."""
    width = work.tokens * work.shape.hidden
    each = width * work.residual if work.recomputes else layer(work)
    around = width * (FULL + 2 * work.residual)  # the embedding's output, the last norm
    return work.shape.layers * each + around


def layer(work: Workload) -> float:
    """What one decoder layer keeps of a batch."""
    return work.tokens * (_norms(work) + _inputs(work) + _attention(work) + _mlp(work))


def _norms(work: Workload) -> float:
    """Per token: inputs in float32, and what trained weights are multiplied with."""
    shape = work.shape
    width = shape.norms * shape.hidden
    if shape.head_norms:
        width += shape.attention + shape.key_values
    return width * (FULL + (work.residual if work.lora is None else 0))


def _inputs(work: Workload) -> float:
    """Per token: inputs of linear layers, for the gradients of their weights or adapters.

    Layers that read the same share it, unless each casts it for itself.
    """
    shape, size = work.shape, work.computed
    trained = [one for one in shape.linears if work.lora is None or adapted(work.lora, one.name)]
    names = [one.name for one in trained]
    inputs = shape.hidden * size * (_copies(work, names, "qkv") + _copies(work, names, "gu"))
    if work.lora is not None:
        inputs += len(trained) * work.lora.r * size
        if "o_proj" in names and work.casts:
            inputs += shape.attention * size  # else it shares the kernel's output
    return inputs


def _copies(work: Workload, trained: Sequence[str], initials: str) -> int:
    readers = sum(name[0] in initials for name in trained)
    return readers if work.casts else min(readers, 1)


def _attention(work: Workload) -> float:
    """Per token: what the kernel keeps."""
    shape, size = work.shape, work.computed
    eager, flash = (work.attention == name for name in ("eager", "flash_attention_2"))
    repeated = eager or (work.padded and not flash)  # keys and values, once per query head
    keys_and_values = 2 * (shape.attention if repeated else shape.key_values)
    bytes_kept = (2 * shape.attention + keys_and_values) * size + shape.heads * FULL
    if eager:
        bytes_kept += shape.heads * work.length * (FULL + size)
    elif work.padded and not flash:
        bytes_kept += work.length * size  # each layer makes floats of the mask
    return bytes_kept


def _mlp(work: Workload) -> float:
    """Per token: the gate before and after its activation, what it gates, and the product."""
    trained = work.lora is None or adapted(work.lora, "down_proj")
    return (3 + trained) * work.shape.intermediate * work.computed
