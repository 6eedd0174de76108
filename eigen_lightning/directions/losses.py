"""Objectives of directions: steepness, coverage and interference.

Steepness and interference are the two losses of sparse eigendecomposition (Chrisman, Bushnaq and Sharkey, "Identifying
Sparsely Active Circuits Through Local Loss Landscape Decomposition", form of November 2024); coverage is this
package's (DESIGN section 2). ``d[k, s]`` is d2D of direction k on sample s, in the scale of the losses, never negative
but for rounding. Exponents are those of d; 2 is the published one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eigen_lightning.curvature.batch import LinearizedBatch

InterferenceForm = Literal["squared", "norm"]

TIE = 1e-5
"""Relative difference below which two values count as equal: the earlier row is then taken, on any number of ranks."""


@dataclass(frozen=True)
class Steepness:
    """``mean_s sum_k d[k, s]^exponent``, to be maximized; L1 of the paper."""

    exponent: float = 2.0
    rowwise: ClassVar[bool] = True

    def value(self, d: Float[Tensor, "K *samples"]) -> Float[Tensor, ""]:
        """The objective on these samples."""
        return d.clamp_min(0).pow(self.exponent).sum() / d[0].numel()

    def cotangent(self, d: Float[Tensor, "k *samples"], rows: slice) -> Float[Tensor, "k *samples"]:
        """The derivative by d."""
        return d.clamp_min(0).pow(self.exponent - 1) * (self.exponent / d[0].numel())


@dataclass(frozen=True)
class Coverage:
    """``mean_s max_k d[k, s]^exponent``, to be maximized: each sample counts once, for the direction leading on it."""

    exponent: float = 3.0
    rowwise: ClassVar[bool] = False

    def value(self, d: Float[Tensor, "K *samples"]) -> Float[Tensor, ""]:
        """The objective on these samples."""
        return d.amax(0).clamp_min(0).pow(self.exponent).mean()

    def cotangent(self, d: Float[Tensor, "K *samples"], rows: slice) -> Float[Tensor, "k *samples"]:
        """The derivative by d of some rows: zero but for the leader of each sample."""
        largest = d.amax(0).clamp_min(0)
        slope = largest.pow(self.exponent - 1) * (self.exponent / largest.numel())
        numbers = torch.arange(len(d), device=d.device)[rows]
        return slope * (leaders(d) == numbers.view(-1, *[1] * (d.ndim - 1)))


def leaders(d: Float[Tensor, "K *samples"]) -> Int[Tensor, "*samples"]:
    """The direction with the largest d on each sample, the earliest of those within ``TIE`` of it."""
    return (d >= d.amax(0) * (1 - TIE)).to(torch.uint8).argmax(0)


def coactivation(d: Float[Tensor, "K *samples"]) -> Float[Tensor, "K K"]:
    """``C = (d^2)(d^2)^T``, summed over samples: all that interference needs to know of them."""
    squared = d.flatten(1).square()
    return squared @ squared.T


def cosines(U: Float[Tensor, "K P"]) -> Float[Tensor, "K K"]:
    """``cos(u_k, u_l)`` of every pair; rows of any length."""
    unit = torch.nn.functional.normalize(U, dim=-1)
    return unit @ unit.T


def squared_interference(coactivation: Float[Tensor, "K K"], cosine: Float[Tensor, "K K"]) -> Float[Tensor, ""]:
    """``sum_{k>l} C[k, l] cos^2(u_k, u_l)``.

    Equal to the squared Frobenius norm of ``d_k d_l cos(u_k, u_l)`` over samples and pairs, without the
    ``[samples, K, K]`` tensor: O(K^2 (samples + P)) time, O(K^2) memory.
    """
    return (coactivation * cosine.square()).tril(-1).sum()


@dataclass(frozen=True)
class Interference:
    """Interference, to be minimized; L2 of the paper.

    Attributes:
        form: ``squared`` is the mean over samples of ``sum_{k>l} (d_k d_l cos)^2``, in the unit of squared steepness;
            ``norm`` is the published one: the Frobenius norm over samples and pairs, per input element.
        n_samples: samples of all ranks.
        n_input_elements: numbers in the inputs these samples came from.
    """

    form: InterferenceForm
    n_samples: int
    n_input_elements: int

    def value(self, coactivation: Float[Tensor, "K K"], cosine: Float[Tensor, "K K"]) -> Float[Tensor, ""]:
        """The loss, from C summed over all samples of all ranks."""
        squared = squared_interference(coactivation, cosine)
        if self.form == "squared":
            return squared / self.n_samples
        # A bare square root has an infinite slope at 0, which orthogonal directions reach: there the gradient is 0.
        positive = squared > 0
        return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0) / self.n_input_elements

    def by_curvature(
        self, d: Float[Tensor, "K *samples"], coactivation: Float[Tensor, "K K"], cosine: Float[Tensor, "K K"]
    ) -> Float[Tensor, "K *samples"]:
        """The derivative of :meth:`value` by d of this rank's samples."""
        overlap = cosine.square().fill_diagonal_(0)
        flat = d.flatten(1)
        by_squared = (2 * flat * (overlap @ flat.square())).reshape(d.shape)
        if self.form == "squared":
            return by_squared / self.n_samples
        root = squared_interference(coactivation, cosine).sqrt()
        return by_squared * torch.where(root > 0, 0.5 / (root * self.n_input_elements), 0.0)

    def value_and_gradient(
        self,
        samples: LinearizedBatch,
        U: Float[Tensor, "K P"],
        stale: Float[Tensor, "K *samples"] | None,
        sum_over_ranks: Callable[[Tensor], Tensor],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "K P"]]:
        """The loss over all ranks' samples and its gradient by U, the same on every rank.

        Args:
            samples: this rank's.
            U: directions; rows of any length.
            stale: d to be taken as a constant, as published; None evaluates d of U and differentiates through it.
            sum_over_ranks: sums a tensor over ranks; applied before any square root, so that N ranks equal one.
        """
        d = samples.scaled(U) if stale is None else stale
        together = sum_over_ranks(coactivation(d))
        leaf = U.detach().requires_grad_()
        with torch.enable_grad():
            value = self.value(together, cosines(leaf))
            gradient = torch.autograd.grad(value, leaf)[0]
        if stale is None:
            fixed = _Fixed(self.by_curvature(d, together, cosines(U)))
            gradient = gradient + sum_over_ranks(samples.value_and_gradient(U, fixed)[1])
        return value.detach(), gradient


@dataclass(frozen=True)
class _Fixed:
    """An objective linear in d."""

    weights: Float[Tensor, "K *samples"]
    rowwise: ClassVar[bool] = True

    def cotangent(self, d: Tensor, rows: slice) -> Tensor:
        return self.weights[rows]
