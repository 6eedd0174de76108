"""How far an output moves: divergences between a network's outputs and those at its trained weights."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp, vmap

from eigen_lightning.curvature.categorical import categorical_metric
from eigen_lightning.run.errors import UserError, nearest


class Divergence(ABC):
    """A divergence D(f, f0) of outputs f from reference outputs f0 = f(x, W0), one number per sample.

    A divergence of one's own writes :meth:`value`; it should vanish with its gradient at ``outputs == reference``.
    Everything else is optional and faster; :func:`check_divergence` compares it with :meth:`value` before a run starts.
    """

    @abstractmethod
    def value(
        self, outputs: Float[Tensor, "*samples n_out"], reference: Float[Tensor, "*samples n_out"]
    ) -> Float[Tensor, "*samples"]:
        """D of each sample."""

    def quadratic_form(
        self, tangents: Float[Tensor, "K *samples n_out"], reference: Float[Tensor, "*samples n_out"]
    ) -> Float[Tensor, "K *samples"]:
        """``t^T H_out t``, H_out the Hessian of D by the outputs at the reference; by nested products by default."""

        def second(tangent: Tensor) -> Tensor:
            def first(outputs: Tensor) -> Tensor:
                return jvp(lambda at: self.value(at, reference), (outputs,), (tangent,))[1]

            return jvp(first, (reference,), (tangent,))[1]

        return vmap(second)(tangents)

    def diagonal(self, reference: Float[Tensor, "*samples n_out"]) -> Float[Tensor, "*samples n_out"] | None:
        """The diagonal of H_out where nothing else of it differs from zero; None (the default) otherwise."""
        return None

    def pull_back(
        self, outputs: Float[Tensor, "*samples n_out"], weight: Float[Tensor, "n_out d"]
    ) -> Float[Tensor, "*samples d d"] | None:
        """``W^T H_out W`` for a linear readout of weight W; None (the default) where outputs are evaluated instead."""
        return None


class MSE(Divergence):
    """Mean squared difference over the outputs: the divergence of regression."""

    def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
        return (outputs - reference).square().mean(-1)

    def quadratic_form(self, tangents: Tensor, reference: Tensor) -> Tensor:
        return tangents.square().sum(-1) * (2 / reference.shape[-1])

    def diagonal(self, reference: Tensor) -> Tensor:
        return torch.full_like(reference, 2 / reference.shape[-1])

    def pull_back(self, outputs: Tensor, weight: Tensor) -> Tensor:
        metric = weight.T @ weight * (2 / outputs.shape[-1])
        return metric.expand(*outputs.shape[:-1], *metric.shape)


class _Categorical(Divergence):
    """Divergences between softmax distributions; all share the Fisher information diag(p) - p p^T as H_out."""

    def quadratic_form(self, tangents: Tensor, reference: Tensor) -> Tensor:
        probability = reference.softmax(-1, dtype=torch.float64).to(reference)
        mean = torch.einsum("...v,k...v->k...", probability, tangents)
        return torch.einsum("...v,k...v->k...", probability, (tangents - mean.unsqueeze(-1)).square())

    def pull_back(self, outputs: Tensor, weight: Tensor) -> Tensor:
        return categorical_metric(outputs, weight)


class KL(_Categorical):
    """Normalized KL divergence KL(p, p0) - KL(p0, p0) of the softmax distributions p of f and p0 of f0, in nats."""

    def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
        log_p, log_p0 = outputs.log_softmax(-1), reference.log_softmax(-1)
        return (log_p.exp() * (log_p - log_p0)).sum(-1)


class CrossEntropy(_Categorical):
    """Normalized cross entropy CE(p0, p) - CE(p0, p0) of the softmax distributions p of f and p0 of f0, in nats."""

    def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
        log_p, log_p0 = outputs.log_softmax(-1), reference.log_softmax(-1)
        return (log_p0.exp() * (log_p0 - log_p)).sum(-1)


NAMED: dict[str, type[Divergence]] = {"mse": MSE, "kl": KL, "cross_entropy": CrossEntropy}


def divergence_named(name: str) -> Divergence:
    """The divergence of that name: ``mse``, ``kl`` or ``cross_entropy``.

    Raises:
        UserError: where there is none of that name.
    """
    if name not in NAMED:
        raise UserError(f"expected a divergence named {', '.join(NAMED)}, got {name!r}{nearest(name, NAMED)}")
    return NAMED[name]()


CHECKED_SAMPLES = 16
CHECKED_RANGE = 10.0
"""Outputs are scaled down to this range: a softmax that is all but certain leaves no digits to differences."""

STEP = 1e-4
"""Of second differences: truncation and float64's rounding are both near 1e-8 in the unit of the step."""


@torch.no_grad()
def check_divergence(divergence: Divergence, outputs: Float[Tensor, "*samples n_out"]) -> None:
    """Compare what a divergence declares with finite differences of its :meth:`~Divergence.value`, in float64.

    Args:
        divergence: any.
        outputs: of the network at W0 on a few samples.

    Raises:
        UserError: where the gradient at W0 does not vanish, or quadratic form, diagonal or pull-back are those of
            another divergence (a subclass of KL or MSE that overrides ``value`` alone inherits them).
    """
    reference = outputs.reshape(-1, outputs.shape[-1])[:CHECKED_SAMPLES].double()
    reference = reference * min(1.0, CHECKED_RANGE / max(float(reference.max() - reference.min()), 1e-300))
    generator = torch.Generator().manual_seed(0)
    spread = float(reference.std(correction=0)) or min(float(reference.abs().max()), CHECKED_RANGE) or 1.0
    tangent = torch.randn(reference.shape, generator=generator, dtype=torch.float64).to(reference.device)
    name = type(divergence).__name__
    gradient, elsewhere = (
        grad(lambda at: divergence.value(at, reference).sum())(point).abs().max()
        for point in (reference, reference + spread * tangent)
    )
    # Relative to the gradient one spread away, so that outputs of any scale are judged alike.
    if not gradient <= 1e-6 * elsewhere:
        raise UserError(
            f"expected a divergence whose gradient vanishes at the trained weights, got {name}, whose gradient is "
            f"{float(gradient):.3g} there against {float(elsewhere):.3g} one standard deviation away: subtract "
            "its value at W0, or use `curvature: nested`"
        )
    declared = {"quadratic_form": (divergence.quadratic_form(tangent[None], reference)[0], tangent)}
    diagonal = divergence.diagonal(reference)
    if diagonal is not None:
        declared["diagonal"] = ((diagonal * tangent.square()).sum(-1), tangent)
    weight = torch.randn(reference.shape[-1], 2, generator=generator, dtype=torch.float64).to(reference.device)
    metric = divergence.pull_back(reference, weight)
    if metric is not None:
        along = weight.new_tensor([1.0, -2.0])
        declared["pull_back"] = (along @ metric @ along, (weight @ along).expand_as(reference))
    for what, (got, moved) in declared.items():
        # A divergence bends over the outputs' own spread or, as those of softmax, over one unit: either may agree.
        wanted = [_second_difference(divergence, reference, moved, unit) for unit in (spread, 1.0)]
        if not any(torch.allclose(got, each, rtol=1e-3, atol=1e-3 * float(each.abs().max())) for each in wanted):
            worst = int((got - wanted[0]).abs().argmax())
            raise UserError(
                f"expected {name}.{what} to agree with the second difference of {name}.value, "
                f"{float(wanted[0][worst]):.4g} on one sample, got {float(got[worst]):.4g}: override it with value, or "
                "derive from Divergence, which needs value alone"
            )


def _second_difference(divergence: Divergence, reference: Tensor, tangent: Tensor, unit: float) -> Tensor:
    step = STEP * unit
    ahead, here, behind = (divergence.value(reference + at * tangent, reference) for at in (step, 0.0, -step))
    return (ahead - 2 * here + behind) / step**2
