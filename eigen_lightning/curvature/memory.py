"""How many directions are evaluated at a time."""

import logging
import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

log = logging.getLogger(__name__)

CACHE_BYTES = 2 * 2**20
"""On a CPU, tangents of a chunk beyond this fall out of the cache, and each direction takes longer."""

LIVE_TANGENTS = 8
"""How many tensors of the widest tangent's size are alive at a time, with those of the cotangent pass."""

FREE_FRACTION = 1 / 8
MAX_ROWS = 4096


class Chunk:
    """How many directions are evaluated at a time: one number shared by all batches of a run.

    Sums over a chunk round differently in chunks of another size, so that a resumed run takes the checkpoint's.

    Args:
        rows: the number; None sizes it on the first batch.
        memory_budget: GiB for the tangents of one chunk; None takes an eighth of what is free.
    """

    def __init__(self, rows: int | None = None, memory_budget: float | None = None) -> None:
        self.rows = rows
        self.memory_budget = memory_budget

    def size_for(self, forward: Callable[[Tensor], Tensor], inputs: Tensor, n_directions: int) -> None:
        """Set the number from the widest tensor of a forward pass, where it is not set yet, to divide K evenly."""
        if self.rows is not None:
            return
        with torch.no_grad(), _Widest() as widest:
            forward(inputs)
        budget = free_bytes(inputs.device) * FREE_FRACTION
        if self.memory_budget is not None:
            budget = self.memory_budget * 2**30
        rows = int(budget / (widest.bytes * LIVE_TANGENTS))
        if inputs.device.type == "cpu":
            rows = min(rows, CACHE_BYTES // widest.bytes)
        chunks = max(1, round(n_directions / max(1, min(rows, MAX_ROWS))))
        self.rows = -(-n_directions // chunks)

    def halve_after(self, error: RuntimeError) -> None:
        """Evaluate half the directions at a time from here on, where memory ran out; any other error is raised."""
        if not is_out_of_memory(error) or self.rows is None or self.rows == 1:
            raise error
        self.rows = self.rows // 2
        log.warning("out of memory: %d directions are evaluated at a time from here on", self.rows)


class _Widest(TorchDispatchMode):
    """Notes the size of the largest floating-point tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def free_bytes(device: torch.device) -> float:
    """Memory that is free on a device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
