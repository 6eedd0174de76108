"""How many directions fit at a time, and what running out of memory looks like."""

import os

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from eigen_lightning.curvature import Curvature

CACHE_BYTES = 2 * 2**20
"""On a CPU, tangents of a chunk beyond this fall out of the cache, and each direction takes longer."""

LIVE_TANGENTS = 8
"""How many tensors of the widest tangent's size are alive at a time, with those of the cotangent pass."""

FREE_FRACTION = 1 / 8
MOST_ROWS = 4096


class _Widest(TorchDispatchMode):
    """Notes the size of the largest floating-point tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def rows_for(curvature: Curvature, inputs: Tensor, memory_budget: float | None) -> int:
    """How many directions to evaluate at a time on batches like this one.

    Args:
        curvature: whose tangents are to fit.
        inputs: a batch.
        memory_budget: GiB for the tangents of one chunk; None takes an eighth of what is free.
    """
    with torch.no_grad(), _Widest() as widest:
        curvature.primal(inputs)
    budget = free_bytes(inputs.device) * FREE_FRACTION if memory_budget is None else memory_budget * 2**30
    rows = int(budget / (widest.bytes * LIVE_TANGENTS))
    if inputs.device.type == "cpu":
        rows = min(rows, CACHE_BYTES // widest.bytes)
    return max(1, min(rows, MOST_ROWS))


def free_bytes(device: torch.device) -> float:
    """Memory that is free on a device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, on an accelerator or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
