"""What can be wrong with directions: dead, duplicate, collapsed, or no numbers at all."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.linalg import qr
from torch import Tensor
from torchmetrics import Metric

from eigen_lightning.analysis.recovery import absolute_cosines

DUPLICATE_ABOVE = 0.95
COLLAPSED_BELOW = 1e-3


def duplicates(directions: Float[Tensor, "K P"]) -> list[tuple[int, int]]:
    """Pairs (earlier, later) with |cos| above 0.95."""
    cosine = absolute_cosines(directions, directions).tril(-1)
    return [(earlier, later) for later, earlier in (cosine > DUPLICATE_ABOVE).nonzero().tolist()]


def collapsed(directions: Float[Tensor, "K P"]) -> list[int]:
    """Rows by which U falls short of the rank min(K, P): zero, or in the span of the others to within 0.001.

    Rows are taken one after another, each time the one that sticks out most from the span of those taken (QR with
    pivoting); those left when nothing sticks out any more are returned.
    """
    _, triangle, order = qr(directions.detach().double().cpu().numpy().T, mode="economic", pivoting=True)
    sticks_out = torch.as_tensor(triangle).diagonal().abs()
    rank = int((sticks_out > COLLAPSED_BELOW).sum())
    return sorted(int(row) for row in order[rank : min(directions.shape)])


@dataclass(frozen=True)
class NonFinite:
    """Where a number stopped being finite.

    Attributes:
        direction: which row of U.
        sample_id: which sample.
        position: flat index over the sample's positions; 0 where it has none.
        rank: which process saw it.
    """

    direction: int
    sample_id: int
    position: int
    rank: int

    def __str__(self) -> str:
        return (
            f"d2D of direction {self.direction} is not finite on sample {self.sample_id}, position {self.position}, "
            f"rank {self.rank}"
        )


def first_non_finite(
    curvature: Float[Tensor, "K batch *positions"], sample_id: Int[Tensor, " batch"], rank: int
) -> NonFinite | None:
    """The first direction, sample and position whose d2D is NaN or infinite; None where all are finite."""
    finite: Bool[Tensor, "K batch position"] = curvature.isfinite().reshape(*curvature.shape[:2], -1)
    if finite.all():
        return None
    direction, sample, position = (~finite).nonzero()[0].tolist()
    return NonFinite(direction, int(sample_id[sample]), position, rank)


@dataclass(frozen=True)
class Health:
    """The state of all directions.

    Attributes:
        dead: lead on no sample.
        duplicates: pairs (earlier, later) with |cos| above 0.95.
        collapsed: rows by which U falls short of full rank.
        non_finite: rows of U with a NaN or an infinity.
    """

    dead: list[int] = field(default_factory=list)
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    collapsed: list[int] = field(default_factory=list)
    non_finite: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether all is well."""
        return not any(asdict(self).values())

    def counts(self) -> dict[str, int]:
        """How many of each kind; of duplicates, how many rows are one of an earlier row."""
        return {
            "dead": len(self.dead),
            "duplicates": len({later for _, later in self.duplicates}),
            "collapsed": len(self.collapsed),
            "non_finite": len(self.non_finite),
        }

    def to_mend(self, steepness: Float[Tensor, " K"]) -> list[int]:
        """The rows to start anew: dead and collapsed ones, and of each pair of duplicates the less steep."""
        rows = {*self.dead, *self.collapsed}
        for pair in sorted(self.duplicates):
            if not rows & {*pair}:
                rows.add(min(pair, key=lambda row: (float(steepness[row]), -row)))
        return sorted(rows)

    def __str__(self) -> str:
        parts = []
        if self.dead:
            parts.append(f"dead (lead on no sample): {_shown(self.dead)}")
        if self.duplicates:
            parts.append(f"duplicates: {_shown([f'{later} of {earlier}' for earlier, later in self.duplicates])}")
        if self.collapsed:
            parts.append(f"collapsed (in the span of the others): {_shown(self.collapsed)}")
        if self.non_finite:
            parts.append(f"not finite: {_shown(self.non_finite)}")
        return "; ".join(parts) or "all well"


def _shown(items: list[Any], most: int = 8) -> str:
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def health(directions: Float[Tensor, "K P"], leads: Int[Tensor, " K"]) -> Health:
    """Examine directions.

    Args:
        directions: U.
        leads: on how many samples each is the steepest, from :class:`LeadMetric`; a direction that leads on none is
            dead.
    """
    finite = directions.isfinite().all(1)
    bad = (~finite).nonzero().flatten().tolist()
    if bad:
        return Health(non_finite=bad)
    return Health((leads == 0).nonzero().flatten().tolist(), duplicates(directions), collapsed(directions))


class Leads:
    """What samples say of directions. No dataclass, as torchmetrics would squeeze the tensors in one.

    Attributes:
        count: on how many samples each direction is the steepest.
        steepness: mean of d2D squared of each direction.
    """

    def __init__(self, count: Int[Tensor, " K"], steepness: Float[Tensor, " K"]) -> None:
        self.count, self.steepness = count, steepness


class LeadMetric(Metric):
    """Collects :class:`Leads` over a stream; samples on which nothing happens are led by none.

    Args:
        n_directions: K.
    """

    full_state_update = False
    higher_is_better = None

    leads: Tensor
    squares: Tensor
    samples: Tensor

    def __init__(self, n_directions: int) -> None:
        super().__init__()
        self.add_state("leads", torch.zeros(n_directions, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(n_directions, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, curvature: Float[Tensor, "K *samples"]) -> None:
        """Take in one batch."""
        flat = curvature.flatten(1)
        largest, leader = flat.max(0)
        self.leads += torch.bincount(leader[largest > 0], minlength=len(self.leads))
        self.squares += flat.double().square().sum(1)
        self.samples += flat.shape[1]

    def compute(self) -> Leads:
        """Over all batches and ranks."""
        return Leads(self.leads, self.squares / self.samples)
