"""Reductions over processes, one collective each."""

from typing import Literal

import torch
from torch import Tensor


def reduced(tensor: Tensor, operation: Literal["mean", "sum", "max"]) -> Tensor:
    """The mean, sum or maximum of a tensor over all processes; the tensor itself where there is one process.

    Lightning's own ``strategy.reduce`` puts a barrier before each reduction, which costs as much again.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    result = tensor.detach().clone()
    how = torch.distributed.ReduceOp.MAX if operation == "max" else torch.distributed.ReduceOp.SUM
    torch.distributed.all_reduce(result, op=how)
    return result / torch.distributed.get_world_size() if operation == "mean" else result
