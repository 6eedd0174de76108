"""What must hold of a target and samples before work is spent on them."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from eigen_lightning.curvature.divergence import Divergence
from eigen_lightning.curvature.linearize import Linearizer
from eigen_lightning.run.errors import UserError
from eigen_lightning.targets.target import Target

AT_A_TIME = 8192
TRIED = 8
"""Samples whose outputs are computed."""

STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""Steps along a direction, as the share by which they move the outputs: above them the divergence is not quadratic,
below them float32 leaves nothing of the difference."""

TOLERANCE = 0.05
"""Relative difference of curvature and true divergence up to which a network is decomposed."""

SINGLY = 8
"""Parameters that are also moved alone: what is cut off from one of them may not show beside all others."""


class Samples(Protocol):
    """What is needed of a set of samples."""

    name: str
    repeats: bool

    def __len__(self) -> int: ...

    def batch(self, epoch: int, indices: Int[Tensor, " batch"]) -> Any:
        """The samples at these indices, their inputs in ``inputs``."""


def check_samples(target: Target, samples: Samples) -> None:
    """Refuse samples that the target cannot take, and a target whose outputs on them are no function of each alone.

    All samples of a fixed set are looked at where the target looks at inputs at all, and the first of one that is
    drawn anew in every epoch; the outputs are computed, twice and of each sample alone, on a few.

    Raises:
        UserError: where inputs are of a wrong shape or kind, or outputs are not finite, differ between two calls or
            depend on the other samples of a batch.
    """
    if type(target).check_inputs is not Target.check_inputs:
        for part in torch.arange(len(samples)).split(AT_A_TIME):
            target.check_inputs(samples.batch(0, part).inputs)
            if not samples.repeats:
                break
    inputs = samples.batch(0, torch.arange(min(TRIED, len(samples)))).inputs
    inputs = inputs.to(next(target.network.parameters()).device)
    if target.check:
        _check_batch_norm(target.network)
    with torch.no_grad():
        first, second = (target.outputs(target.weights, inputs) for _ in range(2))
    if not first.isfinite().all():
        raise UserError(
            f"expected finite outputs at the trained weights, got {int((~first.isfinite()).sum())} of {first.numel()} "
            f"that are not, on the first {samples.name} samples: check the network's weights"
        )
    # Not exactly: some kernels of accelerators add up in an order of their own.
    if not _close(first, second):
        raise UserError(
            f"expected a network that gives the same outputs twice, got a difference of "
            f"{float((first - second).abs().max()):.3g} on the first {samples.name} samples: leave no dropout or other "
            "chance on in evaluation mode"
        )
    if target.check:
        _check_samples_alone(target, inputs, first)


def _close(got: Tensor, expected: Tensor) -> bool:
    return got.shape == expected.shape and torch.allclose(
        got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
    )


def _check_batch_norm(network: nn.Module) -> None:
    for name, part in network.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise UserError(
                f"expected samples that do not depend on their batch, got {type(part).__name__} {name!r} without "
                "running statistics, which takes those of the batch: train it with track_running_stats=True, or put "
                "a fixed scale in its place"
            )


@torch.no_grad()
def _check_samples_alone(target: Target, inputs: Any, together: Float[Tensor, "batch *positions n_out"]) -> None:
    for index in range(len(inputs)):
        alone = target.outputs(target.weights, inputs[index : index + 1])
        expected = together[index : index + 1]
        if _close(alone, expected):
            continue
        apart = f"shape {list(alone.shape[1:])} against {list(expected.shape[1:])}"
        if alone.shape == expected.shape:
            largest = float((alone - expected).abs().max())
            apart = f"a difference of {largest:.3g} at outputs of up to {float(expected.abs().max()):.3g}"
        raise UserError(
            f"expected a sample's outputs to be the same alone and in a batch, got {apart}: {_suspects(target.network)}"
        )


def _suspects(network: nn.Module) -> str:
    """What makes samples depend on each other, where a module says so."""
    found = [
        f"{type(part).__name__} {name!r}"
        for name, part in network.named_modules()
        if getattr(part, "batch_first", True) is False
    ]
    if found:
        return f"{', '.join(found[:3])} has batch_first=False and takes samples for time steps; set it to True"
    return "leave out what mixes samples, such as a mean or maximum over the batch, or padding to its longest sample"


@torch.no_grad()
def check_curvature(target: Target, linearizer: Linearizer, inputs: Any) -> None:
    """Compare d2D along random directions with the second difference of the true divergence.

    They differ where a part of the network has another derivative than its value: ``detach``, ``weight.data``,
    straight-through estimators, ``Embedding(max_norm=...)``.

    Args:
        target: the network, on the device to work on.
        linearizer: of it.
        inputs: some samples.

    Raises:
        UserError: where no step, of several sizes, agrees; with both numbers.
    """
    if any(tensor.dtype not in (torch.float32, torch.float64) for tensor in target.weights.values()):
        # Half precision rounds the steps themselves.
        return
    inputs = inputs[:TRIED]
    linearized, origin = linearizer(inputs), linearizer.origin
    reference = target.outputs(target.weights, inputs).double()
    for name, direction in _directions(target, origin):
        expected = float(linearized.d2D(direction[None]).double().sum())
        moved = _along(target, linearizer.divergence, reference, origin, direction, inputs)
        found = [float(value) for value in moved]
        best = min(found, key=lambda value: abs(value - expected))
        apart = abs(best - expected) / (max(abs(best), abs(expected)) or 1.0)
        if apart > TOLERANCE:
            raise UserError(
                f"expected curvature that agrees with the divergence of moved weights, got d2D {expected:.4g} along a "
                f"random direction in {name} against {best:.4g} ({apart:.0%} apart): something between these weights "
                "and the outputs has no derivative or another one (detach, weight.data, rounding, "
                "Embedding(max_norm)); mend it, choose parameters behind it, or set check=False on the target to go on"
            )


def _directions(target: Target, origin: Float[Tensor, " P"]) -> Iterator[tuple[str, Float[Tensor, " P"]]]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(len(origin), generator=generator, dtype=torch.float64).to(origin)
    yield "all parameters", drawn / drawn.norm()
    names = target.space.names
    if len(names) == 1:
        return
    parts = drawn.split(target.space.sizes)
    for chosen in names[:: -(-len(names) // SINGLY)]:
        alone = torch.cat(
            [part if name == chosen else torch.zeros_like(part) for name, part in zip(names, parts, strict=True)]
        )
        yield chosen, alone / alone.norm()


def _along(
    target: Target,
    divergence: Divergence,
    reference: Float[Tensor, "batch *positions n_out"],
    origin: Float[Tensor, " P"],
    direction: Float[Tensor, " P"],
    inputs: Any,
) -> Iterator[float]:
    """``(D(W0 + e u) + D(W0 - e u)) / e^2`` summed over samples, for several e, zero where nothing ever moves."""
    weights = target.weights

    def outputs(step: float) -> Tensor:
        parts = target.space.unflatten(origin + step * direction)
        return target.outputs({name: parts[name].to(weights[name].dtype) for name in parts}, inputs).double()

    size = float(reference.norm()) or 1.0
    # A first step of a hundredth of the weights tells how far the outputs go, and with it how far to go.
    trial = 1e-2 * (float(origin.norm()) or 1.0)
    moved = float((outputs(trial) - reference).norm()) / size
    for share in STEPS:
        step = trial * share / moved if moved > 0 else trial * share
        values = [divergence.value(outputs(sign * step), reference).sum() for sign in (1, -1)]
        yield float(sum(values)) / step**2
