"""Normalized curvature of several sets of directions: d2D relative to what any direction could reach on the sample."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from eigen_lightning.analysis.intervals import Interval, bootstrap_interval, sums_by_group


class Normalized:
    """d2D over trace on samples, in the order of sample identities. No dataclass: torchmetrics squeezes those.

    Attributes:
        values: ``d / t``, t the sample's trace raised to a floor, ``[R, n, *positions]``; R rows of all sets.
        raw: d2D, the same shape.
        trace: t, ``[n, *positions]``.
        sample_id: of the n samples.
    """

    def __init__(self, values: Tensor, raw: Tensor, trace: Tensor, sample_id: Int[Tensor, " n"]) -> None:
        self.values, self.raw, self.trace, self.sample_id = values, raw, trace, sample_id

    def coverage(self, rows: slice, exponent: float, power: float) -> float:
        """The objective of coverage, ``sum_s max_k t^a (d_k / t)^q``, as a share of its bound ``sum_s t^a``.

        Args:
            rows: the directions.
            exponent: q.
            power: of the trace in the scale of d2D; ``a = q (1 - power)``.
        """
        weight = self.trace.double().pow(exponent * (1 - power))
        reached = self.values[rows].double().clamp_min(0).amax(0).pow(exponent)
        return float((weight * reached).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny))

    def mean_steepness(self, rows: slice) -> float:
        """``mean_s sum_k (d_k / t)^2``."""
        return float(self.values[rows].double().square().sum(0).mean())

    def steepness(self, rows: slice, group: Int[Tensor, " n"]) -> Interval:
        """:meth:`mean_steepness` with its bootstrap interval over groups of samples."""
        each = self.values[rows].double().square().sum(0).reshape(len(self.sample_id), -1)
        sums, counts = sums_by_group(each.T, group)
        return bootstrap_interval(sums.sum(0), counts * each.shape[1])

    def twins(self, rows: slice) -> int:
        """Directions that respond as another does: whose values over samples have a cosine above 0.9 with it, however
        far apart the two are in parameter space."""
        profile = torch.nn.functional.normalize(self.values[rows].flatten(1).double(), dim=1)
        return int(((profile @ profile.T).fill_diagonal_(0) > TWIN_ABOVE).any(1).sum())

    def largest_share(self, rows: slice) -> float:
        """How much of the raw steepness ``sum_s sum_k d_k^2`` is that of one sample."""
        each = self.raw[rows].double().square().sum(0).flatten()
        return float(each.max() / each.sum().clamp_min(torch.finfo(each.dtype).tiny))


TWIN_ABOVE = 0.9
"""Cosine of two directions' responses over samples from which on they respond alike."""


class NormalizedMetric(Metric):
    """Collects :class:`Normalized` over a stream, exact over batches and ranks.

    Args:
        floor_quantile: traces are raised to this quantile of the positive ones among the samples collected.
    """

    full_state_update = False
    higher_is_better = None

    raw: list[Tensor]
    trace: list[Tensor]
    sample_id: list[Tensor]

    def __init__(self, floor_quantile: float = 0.25) -> None:
        super().__init__()
        self.floor_quantile = floor_quantile
        for name in ("raw", "trace", "sample_id"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self,
        d: Float[Tensor, "R batch *positions"],
        trace: Float[Tensor, "batch *positions"],
        sample_id: Int[Tensor, " batch"],
    ) -> None:
        """Take in one batch."""
        self.raw.append(d.movedim(0, -1).cpu())
        self.trace.append(trace.cpu())
        self.sample_id.append(sample_id.cpu())

    def compute(self) -> Normalized:
        """Over all batches and ranks."""
        states = (self.raw, self.trace, self.sample_id)
        raw, trace, sample_id = (state if isinstance(state, Tensor) else torch.cat(state) for state in states)
        order = sample_id.sort(stable=True).indices
        raw, trace, sample_id = raw[order].movedim(-1, 0), trace[order], sample_id[order]
        positive = trace[trace > 0]
        if len(positive):
            rank = 1 + int(self.floor_quantile * (len(positive) - 1))
            trace = trace.clamp_min(float(positive.flatten().kthvalue(rank).values))
        trace = trace.clamp_min(torch.finfo(trace.dtype).tiny)
        return Normalized(raw / trace, raw, trace, sample_id)
