"""What must hold of a target and samples before work is spent on them."""

from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from eigen_lightning.run.errors import UserError
from eigen_lightning.targets.target import Target

AT_A_TIME = 8192
TRIED = 8
"""Samples whose outputs are computed."""


class Samples(Protocol):
    """What is needed of a set of samples."""

    name: str
    repeats: bool

    def __len__(self) -> int: ...

    def batch(self, epoch: int, indices: Int[Tensor, " batch"]) -> Any:
        """The samples at these indices, their inputs in ``inputs``."""


def check_samples(target: Target, samples: Samples) -> None:
    """Refuse samples that the target cannot take, and a target whose outputs on them are no function of them.

    All samples of a fixed set are looked at, and the first of one that is drawn anew in every epoch; the outputs are
    computed, twice, on a few.

    Raises:
        UserError: where inputs are of a wrong shape or kind, or outputs are not finite or differ between two calls.
    """
    for part in torch.arange(len(samples)).split(AT_A_TIME):
        target.check_inputs(samples.batch(0, part).inputs)
        if not samples.repeats:
            break
    inputs = samples.batch(0, torch.arange(min(TRIED, len(samples)))).inputs
    inputs = inputs.to(next(target.network.parameters()).device)
    with torch.no_grad():
        first, second = (target.outputs(target.weights, inputs) for _ in range(2))
    if not first.isfinite().all():
        raise UserError(
            f"expected finite outputs at the trained weights, got {int((~first.isfinite()).sum())} of {first.numel()} "
            f"that are not, on the first {samples.name} samples: check the network's weights"
        )
    # Not exactly: some kernels of accelerators add up in an order of their own.
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
        raise UserError(
            f"expected a network that gives the same outputs twice, got a difference of "
            f"{float((first - second).abs().max()):.3g} on the first {samples.name} samples: leave no dropout or other "
            "chance on in evaluation mode"
        )
