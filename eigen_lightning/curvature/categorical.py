"""The metric of a softmax distribution, pulled back through a linear readout."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

FOLDED_SHARE = 2e-5
"""Share of any sample's metric, in trace norm, that averaging over the batch may change in single precision."""

UNLIKELY = 1e-6
"""Tokens less likely than this on every sample are candidates for averaging."""


def categorical_metric(
    logits: Float[Tensor, "*samples vocab"], weight: Float[Tensor, "vocab d"], vocabulary_chunk: int = 4096
) -> Float[Tensor, "*samples d d"]:
    """``W^T (diag p - p p^T) W`` for each sample, p the softmax of its logits.

    The naive difference of second moment and outer product of the mean cancels where p is concentrated. With the
    likeliest token taken as origin, every term is of the order of the remaining mass, and the float32 result keeps
    its digits. One GEMM against the packed products ``w_i w_j`` (i >= j), in chunks of the vocabulary.

    Tokens a model never met in training are unlikely on every sample and have nearly the same row in W (42,817 of
    50,257 in a model of TinyStories). In float32 their second moment is taken about their common mean, with the
    covariance about that mean averaged over the batch, where this provably changes no sample's metric by more than
    ``FOLDED_SHARE`` of its trace. In float64 nothing is averaged.

    Args:
        logits: at the trained weights.
        weight: the readout's weight W_U, one row a token.
        vocabulary_chunk: rows of W whose packed products are held at a time.
    """
    samples, width = logits.shape[:-1], weight.shape[1]
    flat = logits.reshape(-1, logits.shape[-1])
    top = flat.argmax(-1, keepdim=True)
    # Not by softmax: in float32 its sum over 50,000 tokens costs d2D a digit that the products afterwards do not.
    tail = (flat - flat.gather(-1, top)).exp_().scatter_(-1, top, 0.0)
    total = tail.sum(-1)
    mass = (total / (1 + total)).to(weight)
    tail = tail.mul_((1 / (1 + total))[:, None]).to(weight)
    origin = weight[top.squeeze(-1)]
    # Common to all tokens, and harmless for M: it only keeps the products small where there is probability. The plain
    # mean would not: rows of tokens that never occur can be a hundred times longer than the others.
    center = tail.mean(0) @ weight + (1 - mass) @ origin / len(mass)
    centered, origin = weight - center, origin - center
    folded = Folded.find(tail, centered, origin)
    if folded is not None:
        tail, centered = tail.index_select(1, folded.others), centered[folded.others]
    first, moment = tail @ centered, second_moments(tail, centered, vocabulary_chunk)
    if folded is not None:
        first, moment = first + folded.first, moment.add_(folded.second)
    cross = torch.einsum("si,sj->sij", first, origin)
    offset = first - mass[:, None] * origin
    metric = moment - cross - cross.mT
    metric += torch.einsum("s,si,sj->sij", mass, origin, origin)
    metric -= torch.einsum("si,sj->sij", offset, offset)
    return metric.reshape(*samples, width, width)


def second_moments(
    probability: Float[Tensor, "samples vocab"], rows: Float[Tensor, "vocab d"], vocabulary_chunk: int
) -> Float[Tensor, "samples d d"]:
    """``sum_v p[s, v] w_v w_v^T`` for each sample."""
    width = rows.shape[1]
    i, j = torch.tril_indices(width, width, device=rows.device)
    packed = probability.new_zeros(len(probability), len(i))
    transposed = rows.T.contiguous()
    products = transposed.new_empty(len(i), min(vocabulary_chunk, len(rows)))
    for start in range(0, len(rows), vocabulary_chunk):
        part = transposed[:, start : start + vocabulary_chunk]
        filled = products[:, : part.shape[1]]
        for row in range(width):
            torch.mul(part[row], part[: row + 1], out=filled[row * (row + 1) // 2 : (row + 1) * (row + 2) // 2])
        packed.addmm_(probability[:, start : start + vocabulary_chunk], filled.T)
    moments = packed.new_empty(len(packed), width, width)
    moments[:, i, j] = packed
    moments[:, j, i] = packed
    return moments


@dataclass(frozen=True)
class Folded:
    """Moments of tokens whose differences from each other hardly matter on any sample of the batch.

    Attributes:
        others: all other tokens.
        first: ``sum_v p[s, v] w_v`` over the folded tokens, exact.
        second: ``sum_v p[s, v] w_v w_v^T``, their covariance about the common mean averaged over samples.
    """

    others: Int[Tensor, " others"]
    first: Float[Tensor, "samples d"]
    second: Float[Tensor, "samples d d"]

    @classmethod
    def find(
        cls, tail: Float[Tensor, "samples vocab"], rows: Float[Tensor, "vocab d"], origin: Float[Tensor, "samples d"]
    ) -> "Folded | None":
        """Look for such tokens; None where they are less than a quarter of the vocabulary or averaging would show.

        Averaging replaces ``sum_v p[s, v] a_v a_v^T`` (a: distance from the common mean) by the sample's folded mass
        times the batch's covariance. Both are positive semidefinite, so the trace norm of their difference is at most
        the sum of their traces; the metric's trace is at least that of all other tokens about their own mean. The ratio
        of the two is held below ``FOLDED_SHARE`` on every sample.

        Args:
            tail: probabilities of all tokens but the likeliest, for which it is zero.
            rows: W.
            origin: the likeliest token's row.
        """
        if tail.dtype == torch.float64:
            return None
        likely = tail.amax(0) > UNLIKELY
        others = likely.nonzero().squeeze(1)
        if 4 * len(others) > 3 * len(rows):
            return None
        folded = ~likely[:, None]
        common = (rows * folded).sum(0) / (len(rows) - len(others))
        apart = (rows - common) * folded
        moments = tail @ torch.cat([apart, apart.square().sum(1, keepdim=True), folded.to(rows)], dim=1)
        off, share, mass = moments[:, :-2], moments[:, -2], moments[:, -1]
        weights = tail.mean(0)
        covariance = (apart * weights[:, None]).T @ apart / mass.mean().clamp_min(torch.finfo(rows.dtype).tiny)
        error = share + mass * covariance.trace()
        if bool((error > FOLDED_SHARE * _least_trace(tail.index_select(1, others), rows[others], origin, mass)).any()):
            return None
        cross = torch.einsum("si,j->sij", off, common)
        second = mass[:, None, None] * (torch.outer(common, common) + covariance) + cross + cross.mT
        return cls(others, off + mass[:, None] * common, second)


def _least_trace(
    probability: Float[Tensor, "samples others"],
    rows: Float[Tensor, "others d"],
    origin: Float[Tensor, "samples d"],
    folded_mass: Float[Tensor, " samples"],
) -> Float[Tensor, " samples"]:
    """``sum_v p[s, v] |w_v - m_s|^2`` over the likeliest token and ``others``, m_s their mean."""
    first, mass = probability @ rows, probability.sum(1)
    about_origin = probability @ rows.square().sum(1) - 2 * (first * origin).sum(1) + mass * origin.square().sum(1)
    shift = first - mass[:, None] * origin
    return about_origin - shift.square().sum(1) / (1 - folded_mass)
