"""Where learning starts: surplus orthonormal rows climbed together, then a greedy choice by coverage.

Under squared curvature alone a dense, middling direction can be worth more than a rare, strong one, and one feature
taken by two rows while another has none is a local optimum. Rows to spare and a choice among them resolve both
(DESIGN section 2, "coverage"; measured in issue 13). Everything that decides is a sum over all samples of all ranks in
float64, and ties go to the earlier row, so that every rank decides alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eigen_lightning.curvature.batch import LinearizedBatch, Objective
from eigen_lightning.directions.dense import random_rows, with_canonical_sign
from eigen_lightning.directions.losses import TIE, Coverage, Steepness
from eigen_lightning.directions.polar import polar, unit
from eigen_lightning.run.collectives import gathered, reduced
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.waiting import Waiting

POWER_STEPS = 20
ROWS_AT_ONCE = 8
"""Samples whose leading directions are sought together: each row is evaluated on all of them."""

FEATURE_GAIN = 0.1
"""A member of the pool whose gain in coverage is below this share of the first one's is no further feature."""

SURPLUS_UNKNOWN = 200
"""Orthonormal rows where the number of features is not known."""


@dataclass(frozen=True)
class Start:
    """How directions start.

    Attributes:
        samples: training samples that the start works on.
        surplus: orthonormal rows that climb, for each direction wanted; at most P in all.
        steps: polar steps they climb, all on the same samples.
        singular_vectors: whether the pool also holds the leading direction of each of the K least covered samples.
        principal_steps: orthogonal iterations towards the principal directions of the mean normalized Hessian, as many
            rows as climb, that join the pool; 0 leaves them out.
        sweeps: steps on all these samples after the choice, before the stream takes over.

    Raises:
        UserError: where a number is out of range.
    """

    samples: int = 4096
    surplus: float = 2.0
    steps: int = 40
    singular_vectors: bool = True
    principal_steps: int = 0
    sweeps: int = 0

    def __post_init__(self) -> None:
        # Not `surplus < 1`, which NaN passes.
        in_range = self.samples >= 1 and 1 <= self.surplus < float("inf")
        if not in_range or min(self.steps, self.principal_steps, self.sweeps) < 0:
            raise UserError(
                "expected start.samples and start.surplus of at least 1, and start.steps, start.principal_steps and "
                f"start.sweeps of at least 0, got {self}"
            )

    def unknown(self, size: int) -> int:
        """How many rows climb for each of ``surplus`` where the number of features is not known."""
        return min(size, SURPLUS_UNKNOWN)


class StartSamples(Protocol):
    """The samples that a start works on; this rank's share."""

    def passes(self) -> Iterable[tuple[Tensor, LinearizedBatch]]:
        """Each batch's inputs, and the batch linearized and scaled; the same whenever called."""

    def linearize(self, inputs: Tensor) -> LinearizedBatch:
        """Further inputs linearized and scaled."""


@dataclass(frozen=True)
class Choice:
    """Directions chosen from a pool.

    Attributes:
        rows: in the order of the choice, canonical sign.
        gains: what each raised the coverage by, relative to the first; goes on beyond the rows where there was more.
        sharing: how many of the climbed rows share a sample: the participation ratio ``(sum_k d)^2 / sum_k d^2``,
            median over samples with curvature.
    """

    rows: Float[Tensor, "K P"]
    gains: list[float]
    sharing: float


def climb(
    rows: Float[Tensor, "R P"], samples: StartSamples, exponent: float, steps: int, description: str
) -> Float[Tensor, "R P"]:
    """Raise the steepness of orthonormal rows by full polar steps on all samples."""
    with Waiting(description, steps) as waiting:
        for step in range(steps):
            rows = polar(total_gradient(rows, samples, Steepness(exponent))).to(rows)
            waiting.reach(step + 1)
    return rows


def cover(rows: Float[Tensor, "K P"], samples: StartSamples, exponent: float, sweeps: int) -> Float[Tensor, "K P"]:
    """Raise the coverage of free rows by full steps on all samples."""
    for _ in range(sweeps):
        rows = unit(total_gradient(rows, samples, Coverage(exponent)).to(rows), otherwise=rows)
    return rows


def total_gradient(rows: Float[Tensor, "R P"], samples: StartSamples, objective: Objective) -> Float[Tensor, "R P"]:
    """The gradient of an objective over all samples of all ranks, float64.

    Raises:
        UserError: where it is not finite; on all ranks alike.
    """
    total, count = torch.zeros_like(rows, dtype=torch.float64), 0
    for _, batch in samples.passes():
        total += batch.value_and_gradient(rows, objective)[1]
        count += 1
    gradient = reduced(total / count, "mean")
    if not gradient.isfinite().all():
        raise UserError(
            "expected finite curvature on the samples of the start, got a gradient that is not: check the target's "
            "weights and dtype, or leave `normalization` on, which brings curvature into range"
        )
    return gradient


def principal_rows(rows: Float[Tensor, "R P"], samples: StartSamples, steps: int) -> Float[Tensor, "R P"]:
    """Principal directions of the mean scaled Hessian by orthogonal iteration, largest eigenvalue first."""
    rows = climb(rows, samples, 1.0, steps, "Principal directions for the pool")
    small = rows.double() @ total_gradient(rows, samples, Steepness(1.0)).T
    vectors = torch.linalg.eigh((small + small.T) / 2)[1].flip(1)
    return (vectors.T @ rows.double()).to(rows)


def choose(
    samples: StartSamples, n_directions: int | None, size: int, like: Tensor, start: Start, exponent: float, seed: int
) -> Choice:
    """Climb surplus rows, fill a pool and choose directions from it by coverage.

    Args:
        samples: what to work on.
        n_directions: K; None chooses as many as there are features, by :data:`FEATURE_GAIN`.
        size: P.
        like: a tensor of the dtype and device to work in.
        start: the settings.
        exponent: of d in steepness and coverage.
        seed: of the random rows.
    """
    wanted = n_directions or start.unknown(size)
    surplus = min(round(start.surplus * wanted), size) if n_directions else wanted
    rows = polar(random_rows(surplus, size, seed, "start")).to(like)
    rows = climb(rows, samples, exponent, start.steps, f"Climbing {surplus} rows")
    pool = [rows]
    if start.principal_steps:
        pool.append(
            principal_rows(
                polar(random_rows(surplus, size, seed, "principal")).to(like), samples, start.principal_steps
            )
        )
    if start.singular_vectors:
        pool.append(_leading_directions(torch.cat(pool), samples, wanted, exponent, like))
    candidates = torch.cat(pool)
    chosen, relative, sharing = choose_from(candidates, samples, n_directions, exponent, surplus)
    rows = with_canonical_sign(candidates[chosen])
    if n_directions is not None and len(rows) < n_directions:
        more = random_rows(n_directions - len(rows), size, seed, "start", "beyond the pool").to(like)
        rows = torch.cat([rows, more])
    return Choice(rows, relative, sharing)


def choose_from(
    candidates: Float[Tensor, "R P"],
    samples: StartSamples,
    n_directions: int | None,
    exponent: float,
    climbed: int | None = None,
) -> tuple[list[int], list[float], float]:
    """The greedy choice by coverage.

    Args:
        candidates: the pool.
        samples: what is to be covered.
        n_directions: K, of which there may be fewer in the pool; None takes as many as there are features.
        exponent: of d.
        climbed: how many candidates, from the first on, ``sharing`` is measured with; None for all.

    Returns:
        Indices in the order of the choice, gains relative to the first (of up to 2K members), and
        :attr:`Choice.sharing`.
    """
    values, _, sharing = _evaluate(candidates, samples, exponent, climbed or len(candidates))
    count = len(candidates) if n_directions is None else min(len(candidates), 2 * n_directions)
    chosen, gains = _greedy(values, count)
    relative = [gain / gains[0] for gain in gains] if gains and gains[0] > 0 else [0.0] * len(gains)
    if n_directions is None:
        n_directions = max(1, sum(gain > FEATURE_GAIN for gain in relative))
    return chosen[:n_directions], relative, sharing


def _evaluate(
    rows: Float[Tensor, "R P"], samples: StartSamples, exponent: float, climbed: int
) -> tuple[Float[Tensor, "R samples"], Float[Tensor, " samples"], float]:
    """``d^exponent`` on this rank's samples, the most any direction could reach there, and the sharing of all ranks."""
    values, most, ratios = [], [], []
    for _, batch in samples.passes():
        d = batch.scaled(rows).flatten(1).clamp_min(0).double()
        values.append(d.pow(exponent))
        most.append((batch.trace / batch.divisor).flatten().clamp_min(0).double().pow(exponent))
        of_climbed = d[:climbed]
        ratios.append(of_climbed.sum(0).square() / of_climbed.square().sum(0))
    everyones = torch.cat(gathered(torch.cat(ratios)))
    alive = everyones[everyones.isfinite()]
    return torch.cat(values, 1), torch.cat(most), float(alive.median()) if len(alive) else 1.0


def _greedy(values: Float[Tensor, "R samples"], count: int) -> tuple[list[int], list[float]]:
    """Members of a pool that raise ``sum_s max_k values[k, s]`` most, one after another, and by how much."""
    covered = torch.zeros_like(values[0])
    chosen: list[int] = []
    gains: list[float] = []
    for _ in range(count):
        gain = reduced((values - covered).clamp_min(0).sum(1), "sum")
        gain[chosen] = -torch.inf
        # Relative to the first gain, so that rounding chooses nothing where all that can be covered is.
        near = TIE * (gains[0] if gains else float(gain.max()))
        best = int((gain >= gain.max() - near).to(torch.uint8).argmax())
        chosen.append(best)
        gains.append(float(gain[best]))
        covered = torch.maximum(covered, values[best])
    return chosen, gains


@dataclass(frozen=True)
class _OwnSample:
    """Each row's d on one sample of its own."""

    sample: Int[Tensor, " k"]
    rowwise: ClassVar[bool] = True

    def cotangent(self, d: Float[Tensor, "k *samples"], rows: slice) -> Float[Tensor, "k *samples"]:
        one = torch.zeros_like(d).flatten(1)
        one.scatter_(1, self.sample[rows, None], 1.0)
        return one.view_as(d)


def _leading_directions(
    rows: Float[Tensor, "R P"], samples: StartSamples, count: int, exponent: float, like: Tensor
) -> Float[Tensor, "count P"]:
    """The leading direction of each of the least covered samples, by power iteration on its Hessian."""
    values, most, _ = _evaluate(rows, samples, exponent, len(rows))
    inputs = torch.cat([each for each, _ in samples.passes()])
    uncovered = most - values.amax(0)
    positions = len(uncovered) // len(inputs)
    order = uncovered.sort(descending=True, stable=True).indices[:count]
    found = []
    for part in order.split(ROWS_AT_ONCE):
        batch = samples.linearize(inputs[part // positions])
        own = _OwnSample(torch.arange(len(part), device=part.device) * positions + part % positions)
        u = random_rows(1, rows.shape[1], 0, "power iteration").to(like).expand(len(part), -1)
        for _ in range(POWER_STEPS):
            u = unit(batch.value_and_gradient(u, own)[1], otherwise=u)
        found.append(u)
    # Each rank has sought the least covered of its own samples: the least covered of all are among them.
    of_ranks = torch.cat(gathered(uncovered[order]))
    vectors = torch.cat(gathered(torch.cat(found)))
    return vectors[_descending(of_ranks, count)]


def _descending(values: Float[Tensor, " n"], count: int) -> list[int]:
    """Indices of the largest values in order, of those within ``TIE`` of each other the earlier first."""
    left, order = values.clone(), []
    for _ in range(min(count, len(values))):
        best = int((left >= left.max() - TIE * left.max().abs()).to(torch.uint8).argmax())
        order.append(best)
        left[best] = -torch.inf
    return order
