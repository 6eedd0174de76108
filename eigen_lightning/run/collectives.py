"""Reductions over processes, one collective each."""

from typing import Any, Literal

import torch
from torch import Tensor


def reduced(tensor: Tensor, operation: Literal["mean", "sum", "max"], group: Any = None) -> Tensor:
    """The mean, sum or maximum of a tensor over processes; the tensor itself where there is one process.

    Lightning's own ``strategy.reduce`` puts a barrier before each reduction, which costs as much again.

    Args:
        tensor: this process's.
        operation: which.
        group: over which processes; None for all.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    size = torch.distributed.get_world_size(group)
    if size == 1:
        return tensor
    result = tensor.detach().clone()
    how = torch.distributed.ReduceOp.MAX if operation == "max" else torch.distributed.ReduceOp.SUM
    torch.distributed.all_reduce(result, op=how, group=group)
    return result / size if operation == "mean" else result


def gathered(tensor: Tensor) -> list[Tensor]:
    """The tensors of all processes in the order of ranks; their first dimensions may differ."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [tensor]
    size = torch.distributed.get_world_size()
    if size == 1:
        return [tensor]
    lengths = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(size)]
    torch.distributed.all_gather(lengths, torch.tensor([len(tensor)], device=tensor.device))
    longest = int(torch.cat(lengths).max())
    padded = tensor.new_zeros(longest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    everyones = [torch.empty_like(padded) for _ in range(size)]
    torch.distributed.all_gather(everyones, padded)
    return [part[: int(length)] for part, length in zip(everyones, lengths, strict=True)]
