"""The metric of the outputs, pulled back through a linear readout to the tensor before it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.curvature.divergence import Divergence


@dataclass(frozen=True)
class Readout:
    """The linear map ``outputs = weight @ hidden + bias`` at a network's end.

    Attributes:
        weight: ``[n_out, d]``; W_U^T in TransformerLens' naming.
        bias: ``[n_out]``, or None.
    """

    weight: Float[Tensor, "n_out d"]
    bias: Float[Tensor, " n_out"] | None = None

    def __call__(self, hidden: Float[Tensor, "*samples d"]) -> Float[Tensor, "*samples n_out"]:
        return torch.nn.functional.linear(hidden, self.weight, self.bias)


def pulled_back_metric(
    divergence: Divergence, readout: Readout, hidden: Float[Tensor, "*samples d"], samples_at_once: int = 1024
) -> Float[Tensor, "*samples d d"]:
    """M with ``d2D = t^T M t`` for the tangent t of the tensor before the readout.

    M depends on neither the direction nor the epoch; with it the outputs, however many, cost nothing a direction.

    Args:
        divergence: one that has a pull back.
        readout: the network's end.
        hidden: the tensor before it, at the trained weights.
        samples_at_once: how many samples' outputs are held at a time.

    Raises:
        TypeError: where the divergence has no pull back.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    parts = []
    for part in flat.split(samples_at_once):
        metric = divergence.pull_back(readout(part), readout.weight)
        if metric is None:
            raise TypeError(f"{type(divergence).__name__} has no pull back; evaluate it on the outputs")
        parts.append(metric)
    return torch.cat(parts).reshape(*hidden.shape, hidden.shape[-1])
