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


class DroppedMass:
    """How much probability top-k metrics have left out so far; kept on the device, read when asked for."""

    def __init__(self) -> None:
        self._largest: Tensor | None = None
        self._total: Tensor | None = None
        self._count = 0

    def add(self, mass: Float[Tensor, " samples"]) -> None:
        """Take in the mass that each sample's metric leaves out."""
        self._largest = mass.max() if self._largest is None else torch.maximum(self._largest, mass.max())
        self._total = mass.sum() if self._total is None else self._total + mass.sum()
        self._count += len(mass)

    def facts(self) -> dict[str, float] | None:
        """Mean and maximum over samples; None before the first."""
        if self._total is None or self._largest is None:
            return None
        return {"mean": float(self._total) / self._count, "maximum": float(self._largest)}


def metric_pays(readout: Readout, evaluations: int) -> bool:
    """Whether the pulled-back metric takes less work than going through the outputs.

    A token's metric costs ``d (d + 1) n_out`` operations and the outputs ``2 d n_out`` more, once; a direction's
    tangent through the readout and back ``4 d n_out``, each time.

    Args:
        readout: the network's end.
        evaluations: how often a token is evaluated along a direction, with gradient, over the whole run.
    """
    return readout.weight.shape[1] + 3 < 4 * evaluations


def pulled_back_metric(
    divergence: Divergence,
    readout: Readout,
    hidden: Float[Tensor, "*samples d"],
    samples_at_once: int = 512,
    top_k: int | None = None,
    dropped: DroppedMass | None = None,
) -> Float[Tensor, "*samples d d"]:
    """M with ``d2D = t^T M t`` for the tangent t of the tensor before the readout.

    M depends on neither the direction nor the epoch; with it the outputs, however many, cost nothing a direction.

    Args:
        divergence: one that has a pull back.
        readout: the network's end.
        hidden: the tensor before it, at the trained weights.
        samples_at_once: how many samples' outputs are held at a time.
        top_k: keep only this many of the likeliest outputs; None keeps all.
        dropped: where the probability left out is noted.

    Raises:
        TypeError: where the divergence has no pull back.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    parts = []
    for part in flat.split(samples_at_once):
        if top_k is None:
            metric = divergence.pull_back(readout(part), readout.weight)
        else:
            metric, mass = divergence.pull_back_top(readout(part), readout.weight, top_k)
            if dropped is not None:
                dropped.add(mass)
        if metric is None:
            raise TypeError(f"{type(divergence).__name__} has no pull back; evaluate it on the outputs")
        parts.append(metric)
    return torch.cat(parts).reshape(*hidden.shape, hidden.shape[-1])
