"""How far an output moves: divergences between a network's outputs and those at its trained weights."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp, vmap

from eigen_lightning.curvature.categorical import categorical_metric, truncated_categorical_metric
from eigen_lightning.run.errors import UserError, nearest


class Divergence(ABC):
    """A divergence D(f, f0) of outputs f from reference outputs f0 = f(x, W0), one number a sample.

    A user's own divergence writes :meth:`value`. It should vanish with its gradient at ``outputs == reference``;
    where the gradient does not vanish, only nested products give its curvature.
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

    def square_root(
        self, tangents: Float[Tensor, "K n_out *samples"], reference: Float[Tensor, "*samples n_out"]
    ) -> Float[Tensor, "K n_out *samples"]:
        """``R t`` with ``R^T R = H_out``, the outputs' axis second: its squared norm is :meth:`quadratic_form`.

        Raises:
            NotImplementedError: where the divergence has none written down.
        """
        raise NotImplementedError(f"{type(self).__name__} has no square root of its Hessian written down")

    def pull_back(
        self, logits: Float[Tensor, "*samples n_out"], weight: Float[Tensor, "n_out d"]
    ) -> Float[Tensor, "*samples d d"] | None:
        """``W^T H_out W`` for a linear readout of weight W, or None where there is no better way than the outputs."""
        return None

    def pull_back_top(
        self, logits: Float[Tensor, "*samples n_out"], weight: Float[Tensor, "n_out d"], top_k: int
    ) -> tuple[Float[Tensor, "*samples d d"], Float[Tensor, "*samples"]]:
        """As :meth:`pull_back` from the k likeliest outputs alone, and the probability mass that this leaves out.

        Raises:
            UserError: where the divergence is not one of distributions.
        """
        raise UserError(
            f"expected a divergence of distributions for model.metric_top_k, got {type(self).__name__}: leave "
            "metric_top_k at null"
        )

    def gradient_at_reference(self, reference: Float[Tensor, "*samples n_out"]) -> Float[Tensor, "*samples n_out"]:
        """The gradient of D by the outputs at ``outputs == reference``; zero for a proper divergence."""
        return grad(lambda outputs: self.value(outputs, reference).sum())(reference)


class MSE(Divergence):
    """Mean squared difference over the outputs: the divergence of regression."""

    def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
        return (outputs - reference).square().mean(-1)

    def quadratic_form(self, tangents: Tensor, reference: Tensor) -> Tensor:
        return tangents.square().sum(-1) * (2 / reference.shape[-1])

    def square_root(self, tangents: Tensor, reference: Tensor) -> Tensor:
        return tangents * (2 / reference.shape[-1]) ** 0.5

    def pull_back(self, logits: Tensor, weight: Tensor) -> Tensor:
        metric = weight.T @ weight * (2 / logits.shape[-1])
        return metric.expand(*logits.shape[:-1], *metric.shape)


class _Categorical(Divergence):
    """Divergences between softmax distributions; all share the Fisher information diag(p) - p p^T as H_out."""

    def quadratic_form(self, tangents: Tensor, reference: Tensor) -> Tensor:
        probability = reference.softmax(-1, dtype=torch.float64).to(reference)
        mean = torch.einsum("...v,k...v->k...", probability, tangents)
        return torch.einsum("...v,k...v->k...", probability, (tangents - mean.unsqueeze(-1)).square())

    def square_root(self, tangents: Tensor, reference: Tensor) -> Tensor:
        probability = reference.softmax(-1, dtype=torch.float64).to(reference).movedim(-1, 0)
        return probability.sqrt() * (tangents - (probability * tangents).sum(1, keepdim=True))

    def pull_back(self, logits: Tensor, weight: Tensor) -> Tensor:
        return categorical_metric(logits, weight)

    def pull_back_top(self, logits: Tensor, weight: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        return truncated_categorical_metric(logits, weight, top_k)


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
