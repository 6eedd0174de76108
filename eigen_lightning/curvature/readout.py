"""The metric of the outputs, pulled back through a linear readout to the tensor before it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.curvature.divergence import Divergence
from eigen_lightning.run.errors import UserError

SAMPLES_AT_ONCE = 512
"""Samples whose outputs are held at a time."""


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
        bias = None if self.bias is None else self.bias.to(hidden)
        return torch.nn.functional.linear(hidden, self.weight.to(hidden), bias)


def pulled_back_metric(
    divergence: Divergence, readout: Readout, hidden: Float[Tensor, "*samples d"]
) -> Float[Tensor, "*samples d d"]:
    """M with ``d2D = t^T M t`` for the tangent t of the tensor before the readout (DESIGN section 2).

    M depends on neither direction nor epoch; with it the outputs, however many, cost nothing per direction.

    Args:
        divergence: one whose :meth:`Divergence.pull_back` is not None.
        readout: the network's end.
        hidden: the tensor before it, at W0.
    """
    flat, weight = hidden.reshape(-1, hidden.shape[-1]), readout.weight.to(hidden)
    parts = [divergence.pull_back(readout(part), weight) for part in flat.split(SAMPLES_AT_ONCE)]
    return torch.cat(parts).reshape(*hidden.shape, hidden.shape[-1])  # type: ignore[arg-type]


def has_pull_back(divergence: Divergence) -> bool:
    """Whether a divergence defines a pull-back at all."""
    return divergence.pull_back(torch.zeros(1, 2), torch.eye(2)) is not None


def check_readout(
    readout: Readout, hidden: Float[Tensor, "*samples d"], outputs: Float[Tensor, "*samples n_out"]
) -> None:
    """Compare what a readout makes of the hidden tensor with the network's own outputs.

    Args:
        readout: as the target declares it.
        hidden: the tensor before it at W0.
        outputs: at W0, in the network's own precision, which sets how far rounding may put the two apart.

    Raises:
        UserError: where they differ: something else (a scale, a soft-cap, another layer) follows the readout.
    """
    expected, got = outputs.double(), readout(hidden).double()
    tolerance = max(1e-3, 10 * torch.finfo(outputs.dtype).eps) * float(expected.abs().max())
    if got.shape != expected.shape or not torch.allclose(got, expected, rtol=0, atol=tolerance):
        apart = f"shape {list(got.shape)} against {list(expected.shape)}"
        if got.shape == expected.shape:
            largest = float((got - expected).abs().max())
            apart = f"a difference of {largest:.3g} at outputs of up to {float(expected.abs().max()):.3g}"
        raise UserError(
            f"expected the target's readout applied to its hidden tensor to give its outputs, got {apart}: name the "
            "last linear layer and the tensor that enters it, or return None from `readout`"
        )
