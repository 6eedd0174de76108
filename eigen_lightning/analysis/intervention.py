"""What a direction does when the weights really move along it: true divergences, with a random direction as control."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap

from eigen_lightning.curvature.divergence import Divergence
from eigen_lightning.curvature.linearize import Network
from eigen_lightning.curvature.memory import is_out_of_memory
from eigen_lightning.curvature.products import exact_kernels
from eigen_lightning.run.errors import UserError

SPAN = (1e-4, 1.0)
"""Predicted divergences at the least and the greatest step."""

REFERENCE = 1e-2
"""Predicted divergence at which selectivity is taken: well above rounding, well below where predictions fail."""

OUTPUTS_AT_ONCE = 2**24
"""Numbers of output held at a time."""


@dataclass(frozen=True)
class Samples:
    """Samples to intervene on: inputs, and the position of each where they have several.

    Attributes:
        inputs: what the network takes, one row a sample.
        position: the position that is looked at in each row; None where outputs have no positions.
    """

    inputs: Tensor
    position: Int[Tensor, " samples"] | None = None

    def __len__(self) -> int:
        return len(self.inputs)


def steps(curvature: float, count: int, span: tuple[float, float] = SPAN) -> Float[Tensor, " 2*count"]:
    """Symmetric steps along a direction, ascending, for which the predicted divergence runs over ``span``.

    Args:
        curvature: mean d2D of the direction on its top samples, above 0.
        count: steps on each side, evenly spaced in the logarithm.
        span: predicted divergence ``delta^2 curvature / 2`` at the least and the greatest step.

    Raises:
        UserError: where the curvature is not positive: no step has any effect to second order.
    """
    if not curvature > 0:
        raise UserError(f"expected a direction with positive curvature on its top samples, got {curvature:.3g}")
    predicted = torch.logspace(math.log10(span[0]), math.log10(span[1]), count, dtype=torch.float64)
    positive = (2 * predicted / curvature).sqrt()
    return torch.cat([-positive.flip(0), positive])


def moved_outputs(
    network: Network, direction: Float[Tensor, " P"], deltas: Float[Tensor, " D"], samples: Samples
) -> Iterator[Float[Tensor, "part samples n_out"]]:
    """Outputs at the weights ``W0 + delta u``, at the samples' positions, in double precision, some deltas at a time.

    What does not depend on the chosen parameters is computed once for all steps.
    """
    space, origin = network.space, network.space.flatten(network.weights)
    rows = torch.arange(len(samples), device=origin.device)
    readout = network.readout if samples.position is not None else None

    def at(delta: Tensor) -> Tensor:
        weights = space.unflatten(origin + delta * direction)
        result = (
            network.outputs(weights, samples.inputs) if readout is None else network.hidden(weights, samples.inputs)
        )
        return result if samples.position is None else result.flatten(1, -2)[rows, samples.position]

    def finished(part: Tensor) -> Tensor:
        with exact_kernels():
            try:
                result = vmap(at)(part.to(origin))
            # What torch raises where an operation cannot be batched: recurrent layers, boolean masks.
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                result = torch.stack([at(delta) for delta in part.to(origin)])
        return (result if readout is None else readout(result)).double()

    with torch.no_grad():
        start, at_once = 0, 1
        while start < len(deltas):
            outputs = finished(deltas[start : start + at_once])
            yield outputs
            start += len(outputs)
            width = samples.inputs[:1].numel() if readout is None and samples.position is not None else 1
            at_once = max(1, OUTPUTS_AT_ONCE // (outputs[0].numel() * width))


def divergences(
    network: Network,
    divergence: Divergence,
    direction: Float[Tensor, " P"],
    deltas: Float[Tensor, " D"],
    samples: Samples,
) -> Float[Tensor, "D samples"]:
    """The true divergence of each sample's output at ``W0 + delta u`` from that at W0, float64."""
    reference = next(moved_outputs(network, direction, deltas.new_zeros(1), samples))
    moves = moved_outputs(network, direction, deltas, samples)
    return torch.cat([divergence.value(moved, reference) for moved in moves])


@dataclass(frozen=True)
class Curve:
    """Mean true divergence after each step along one direction.

    Attributes:
        top: on the direction's top samples, ``[2m]``.
        random: on as many random samples, ``[2m]``.
    """

    top: Float[Tensor, " D"]
    random: Float[Tensor, " D"]

    def selectivity(self, at: Sequence[int]) -> float:
        """Top over random samples, averaged over the steps named; infinite where nothing moves on the random ones."""
        chosen = list(at)
        return float(self.top[chosen].mean() / self.random[chosen].mean())


@dataclass(frozen=True)
class Intervention:
    """What steps along a direction did, next to what its curvature predicts and what a random direction does.

    Attributes:
        deltas: the steps, symmetric and ascending, ``[2m]``.
        predicted: ``delta^2 d2D / 2`` on the top samples, ``[2m]``.
        learned: along the direction.
        control: along random directions of equal norm, same steps, same samples; their mean.
    """

    deltas: Float[Tensor, " D"]
    predicted: Float[Tensor, " D"]
    learned: Curve
    control: Curve

    @property
    def reference(self) -> tuple[int, int]:
        """The two steps, one each way, whose predicted divergence is nearest to ``REFERENCE``."""
        half = len(self.deltas) // 2
        nearest = int((self.predicted[half:].log10() - torch.tensor(REFERENCE).log10()).abs().argmin())
        return half - 1 - nearest, half + nearest

    @property
    def selectivity(self) -> float:
        """Mean divergence on top samples over that on random ones, at the reference steps."""
        return self.learned.selectivity(self.reference)

    @property
    def control_selectivity(self) -> float:
        """The same ratio for the random direction: what is due to the samples and not to the direction."""
        return self.control.selectivity(self.reference)

    @property
    def departure(self) -> Float[Tensor, " D"]:
        """``true / predicted - 1`` on the top samples, after each step."""
        return self.learned.top / self.predicted - 1

    @property
    def asymmetry(self) -> Float[Tensor, " m"]:
        """``(D(+delta) - D(-delta)) / (D(+delta) + D(-delta))`` on the top samples, by ascending delta; in [-1, 1]."""
        half = len(self.deltas) // 2
        plus, minus = self.learned.top[half:], self.learned.top[:half].flip(0)
        return (plus - minus) / (plus + minus)

    def departs_at(self, share: float = 0.1) -> float | None:
        """The least delta at which the prediction is off by more than ``share``, either way; None where none is.

        Interpolated between steps in the logarithm of delta.
        """
        half = len(self.deltas) // 2
        off = self.departure.abs()
        worst = torch.maximum(off[half:], off[:half].flip(0))
        beyond = (worst > share).nonzero().flatten().tolist()
        if not beyond:
            return None
        index, logs = beyond[0], self.deltas[half:].log()
        if index == 0:
            return float(self.deltas[half])
        before, after = float(worst[index - 1]), float(worst[index])
        weight = (share - before) / (after - before)
        return float((logs[index - 1] + weight * (logs[index] - logs[index - 1])).exp())


def intervene(
    network: Network,
    divergence: Divergence,
    direction: Float[Tensor, " P"],
    controls: Float[Tensor, "C P"],
    curvature: float,
    top: Samples,
    random: Samples,
    count: int = 7,
    span: tuple[float, float] = SPAN,
) -> Intervention:
    """Move the weights along a direction and its control, both ways, and measure.

    Args:
        network: the network with its trained weights W0; they are not changed.
        divergence: how far an output moves.
        direction: u, in unit norm.
        controls: random directions, in unit norm.
        curvature: mean d2D of u on ``top``.
        top: the samples on which u is steepest.
        random: as many samples drawn at random.
        count: steps on each side.
        span: see :func:`steps`.

    Raises:
        UserError: where the curvature is not positive.
    """
    deltas = steps(curvature, count, span)

    def measured(along: Float[Tensor, "n P"], samples: Samples) -> Tensor:
        return torch.stack(
            [divergences(network, divergence, each, deltas, samples).mean(1).cpu() for each in along]
        ).mean(0)

    learned, control = (Curve(measured(along, top), measured(along, random)) for along in (direction[None], controls))
    return Intervention(deltas, deltas.square() * (curvature / 2), learned, control)


def random_directions(count: int, size: int, seed: int) -> Float[Tensor, "C P"]:
    """Unit vectors drawn uniformly, float64; the same for the same seed on any device."""
    drawn = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


def equally_sensitive(
    sensitivity: Float[Tensor, " pool"], like: Float[Tensor, " n"], count: int, generator: torch.Generator
) -> Int[Tensor, " count"]:
    """Random samples on which the parameters matter as much as on given ones.

    A plain random draw would credit a direction with whatever makes its top samples sensitive to any change of the
    weights (on a toy model of superposition three samples of four are empty and react to none). Each sample is drawn
    from those nearest in the logarithm of sensitivity to one of the given ones: a hundredth of the pool, at least 20.

    Args:
        sensitivity: the trace of each pool sample's Hessian, or an estimate.
        like: the same of the given samples.
        count: how many to draw; given samples are gone through in turn.
        generator: where chance comes from.

    Returns:
        Indices into the pool.
    """
    least = torch.finfo(sensitivity.dtype).tiny
    pool, given = sensitivity.clamp_min(least).log(), like.clamp_min(least).log()
    neighbours = min(len(pool), max(20, len(pool) // 100))
    near = (given[:, None] - pool).abs().topk(neighbours, dim=1, largest=False).indices
    row = torch.arange(count) % len(given)
    return near.cpu()[row, torch.randint(neighbours, (count,), generator=generator)]
