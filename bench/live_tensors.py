"""How much memory tensors hold at their most, counted as operations make them."""

import gc
import weakref
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all storages that are alive; kernels' own scratch space is not seen.

    What a GPU's allocator would add, blocks and their fragments, is not in it either: the same
    number is `torch.cuda.max_memory_allocated` there, but for rounding and scratch space.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __enter__(self) -> Self:
        gc.collect()
        for thing in gc.get_objects():
            if issubclass(type(thing), torch.Tensor):
                self._count(thing)
                if thing.grad is not None:
                    self._count(thing.grad)
        super().__enter__()
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        torch.utils._pytree.tree_map_only(torch.Tensor, self._count, made)
        return made

    def _count(self, tensor: torch.Tensor) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        weakref.finalize(storage, self._free, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size
