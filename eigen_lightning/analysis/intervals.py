"""Bootstrap intervals over groups of samples: how far a figure may be off because other stories could have come."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.special import ndtr, stdtrit
from torch import Tensor

NUMBERS_AT_ONCE = 2**22
"""Entries of the table of draws by groups that are made at a time."""


@dataclass(frozen=True, eq=False)
class Interval:
    """A figure and between what it may lie, float64 on the CPU; NaN where it is not defined.

    Attributes:
        value: on all groups.
        low: lower end; NaN with one group, which says nothing of others.
        high: upper end.
        level: the probability with which the interval is to hold the truth.
    """

    value: Float[Tensor, "*columns"]
    low: Float[Tensor, "*columns"]
    high: Float[Tensor, "*columns"]
    level: float

    def overlaps(self, other: "Interval") -> Tensor:
        """Column by column, whether two intervals have a point in common; false where one is not defined."""
        return (self.low <= other.high) & (other.low <= self.high)

    def to_json(self) -> dict[str, Any]:
        """``value``, ``low`` and ``high`` as numbers or nested lists, None for NaN; and ``level``."""
        return {
            "value": _plain(self.value.tolist()),
            "low": _plain(self.low.tolist()),
            "high": _plain(self.high.tolist()),
            "level": self.level,
        }


def sums_by_group(
    values: Float[Tensor, "*columns samples"], group: Int[Tensor, " samples"]
) -> tuple[Float[Tensor, "*columns groups"], Float[Tensor, " groups"]]:
    """Sums of values over each group and how many there are in it, float64 on the CPU, in the order of the groups.

    Args:
        values: one for each sample, or position of one.
        group: the group of each: its story, or for toys its own number. Any numbers; those not used are no groups.
    """
    _, index, counts = group.cpu().unique(return_inverse=True, return_counts=True)
    values = values.double().cpu()
    sums = values.new_zeros(*values.shape[:-1], len(counts))
    return sums.index_add_(-1, index, values), counts.double()


@torch.no_grad()
def bootstrap_interval(
    sums: Float[Tensor, "*columns groups"],
    counts: Float[Tensor, "*columns groups"] | Float[Tensor, " groups"],
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """:func:`bootstrap` for ratios of sums over groups, such as a mean over tokens.

    Args:
        sums: of the values in each group, for each column.
        counts: what the sum of sums is divided by: numbers of samples, or another column's sums.
        level: as there.
        draws: as there.
        seed: as there.
    """
    sums, counts = sums.double().cpu(), counts.double().cpu()

    def ratios(weights: Float[Tensor, "draws groups"]) -> Float[Tensor, "draws *columns"]:
        return ((sums @ weights.T) / (counts @ weights.T)).movedim(-1, 0)

    return bootstrap(ratios, sums.shape[-1], level, draws, seed)


@torch.no_grad()
def bootstrap(
    figure: Callable[[Float[Tensor, "draws groups"]], Float[Tensor, "draws *columns"]],
    n_groups: int,
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """An interval for a figure when the groups are what was drawn.

    Tokens of one story are alike, so that stories are drawn anew, with replacement, each with all its tokens. The
    interval is between two quantiles of the figures so found, a little further out than ``(1 - level) / 2``: as far as
    Student's t lies beyond the normal quantile, and by ``sqrt(n / (n - 1))``. Without it the interval of a mean of 15
    normal groups holds the truth in 87 % of cases where 90 % are meant. The same seed and number of groups give the
    same draws, whatever the figure.

    Args:
        figure: of draws in which each group occurs as often as its weight says; NaN where it is not defined.
        n_groups: how many groups there are.
        level: the probability with which the interval is to hold the truth.
        draws: how often the groups are drawn.
        seed: of the draws.

    Source: Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69, 2015 (expanded
    percentile interval).
    """
    value = figure(torch.ones(1, n_groups, dtype=torch.float64))[0]
    if n_groups < 2:
        return Interval(value, torch.full_like(value, torch.nan), torch.full_like(value, torch.nan), level)
    drawn = torch.cat([figure(weights) for weights in _resampled(n_groups, draws, seed)])
    further_out = stdtrit(n_groups - 1, (1 - level) / 2) * math.sqrt(n_groups / (n_groups - 1))
    tail = float(ndtr(further_out))
    return Interval(value, drawn.nanquantile(tail, 0), drawn.nanquantile(1 - tail, 0), level)


def _resampled(n_groups: int, draws: int, seed: int) -> Iterator[Float[Tensor, "some groups"]]:
    """How often each group occurs in each draw, some draws at a time."""
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, NUMBERS_AT_ONCE // n_groups)
    for first in range(0, draws, at_once):
        chosen = torch.randint(n_groups, (min(at_once, draws - first), n_groups), generator=generator)
        weights = torch.zeros(chosen.shape, dtype=torch.float64)
        yield weights.scatter_add_(1, chosen, torch.ones_like(weights))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if math.isfinite(value) else None
