"""How far an output moves: divergences between a network's outputs and those at its trained weights."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp, vmap

from eigen_lightning.errors import UserError, nearest


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


def categorical_metric(
    logits: Float[Tensor, "*samples vocab"], weight: Float[Tensor, "vocab d"], vocabulary_chunk: int = 4096
) -> Float[Tensor, "*samples d d"]:
    """``W^T (diag p - p p^T) W`` for each sample, p the softmax of its logits.

    The naive difference of second moment and outer product of the mean cancels where p is concentrated. With the
    likeliest token taken as origin, every term is of the order of the remaining mass, and the float32 result keeps
    its digits. One GEMM against the packed products ``w_i w_j`` (i >= j), in chunks of the vocabulary.

    Args:
        logits: at the trained weights.
        weight: the readout's weight W_U, one row a token.
        vocabulary_chunk: rows of W whose packed products are held at a time.
    """
    samples, width = logits.shape[:-1], weight.shape[1]
    # A float32 softmax over 50,000 tokens costs d2D two digits that the product afterwards does not: measured on
    # GPT-Neo, 8e-6 against 5e-7.
    probability = logits.reshape(-1, logits.shape[-1]).softmax(-1, dtype=torch.float64)
    top = probability.argmax(-1, keepdim=True)
    tail = probability.scatter(-1, top, 0.0)
    mass, tail = tail.sum(-1).to(weight), tail.to(weight)
    origin = weight[top.squeeze(-1)]
    # Common to all tokens, and harmless for M: it only keeps the products small where there is probability. The plain
    # mean would not: rows of tokens that never occur can be a hundred times longer than the others.
    center = probability.mean(0).to(weight) @ weight
    centered, origin = weight - center, origin - center
    rows, columns = torch.tril_indices(width, width, device=weight.device)
    packed = tail.new_zeros(len(tail), len(rows))
    transposed = centered.T.contiguous()
    products = transposed.new_empty(len(rows), min(vocabulary_chunk, len(centered)))
    for start in range(0, len(centered), vocabulary_chunk):
        part = transposed[:, start : start + vocabulary_chunk]
        filled = products[:, : part.shape[1]]
        for i in range(width):
            torch.mul(part[i], part[: i + 1], out=filled[i * (i + 1) // 2 : (i + 1) * (i + 2) // 2])
        packed.addmm_(tail[:, start : start + vocabulary_chunk], filled.T)
    first = tail @ centered
    moment = packed.new_empty(len(packed), width, width)
    moment[:, rows, columns] = packed
    moment[:, columns, rows] = packed
    cross = torch.einsum("si,sj->sij", first, origin)
    offset = first - mass[:, None] * origin
    metric = moment - cross - cross.mT
    metric += torch.einsum("s,si,sj->sij", mass, origin, origin)
    metric -= torch.einsum("si,sj->sij", offset, offset)
    return metric.reshape(*samples, width, width)


def truncated_categorical_metric(
    logits: Float[Tensor, "*samples vocab"], weight: Float[Tensor, "vocab d"], top_k: int
) -> tuple[Float[Tensor, "*samples d d"], Float[Tensor, "*samples"]]:
    """The metric of the k likeliest tokens, renormalized, and the mass delta of the tokens left out.

    With R the range of the tangents' logits over the vocabulary, d2D is off by at most ``5/4 delta R^2``: the variance
    of a mixture is that of its parts plus that of their means.

    Args:
        logits: at the trained weights.
        weight: the readout's weight W_U, one row a token.
        top_k: how many tokens are kept.
    """
    log_mass = logits.logsumexp(-1)
    kept, tokens = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    rows = weight[tokens]
    probability = kept.softmax(-1).unsqueeze(-1)
    centered = rows - (probability * rows).sum(-2, keepdim=True)
    metric = (probability * centered).mT @ centered
    return metric, -torch.expm1(kept.logsumexp(-1) - log_mass)


NAMED: dict[str, type[Divergence]] = {"mse": MSE, "kl": KL, "cross_entropy": CrossEntropy}


def divergence_named(name: str) -> Divergence:
    """The divergence of that name: ``mse``, ``kl`` or ``cross_entropy``.

    Raises:
        UserError: where there is none of that name.
    """
    if name not in NAMED:
        raise UserError(f"expected a divergence named {', '.join(NAMED)}, got {name!r}{nearest(name, NAMED)}")
    return NAMED[name]()
