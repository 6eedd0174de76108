"""One pass over samples that evaluates learned directions and each control together."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eigen_lightning.analysis.curvature_statistics import CurvatureStatistics, CurvatureStatisticsMetric
from eigen_lightning.analysis.health import Health, LeadMetric, Leads, health
from eigen_lightning.analysis.normalized import Normalized, NormalizedMetric
from eigen_lightning.analysis.top_examples import TopExamples, TopExamplesMetric
from eigen_lightning.curvature import LinearizedBatch, Linearizer
from eigen_lightning.run.waiting import Waiting


class Evaluated:
    """What samples say of one set of directions.

    Attributes:
        directions: ``[K, P]``.
        statistics: moments of d2D.
        leads: which of them are the steepest where.
        top: the samples of largest d2D.
        normalized: d2D over trace of all sets judged together.
        rows: which of its rows are these directions.
    """

    def __init__(
        self,
        directions: Float[Tensor, "K P"],
        statistics: CurvatureStatistics,
        leads: Leads,
        top: TopExamples,
        normalized: Normalized,
        rows: slice,
    ) -> None:
        self.directions, self.statistics, self.leads, self.top = directions, statistics, leads, top
        self.normalized, self.rows = normalized, rows

    def scalars(self, group: Int[Tensor, " n"]) -> dict[str, float]:
        """Normalized and raw steepness, interference, dead and duplicate directions.

        Args:
            group: the story of each sample judged; on toys a number of its own.
        """
        counts = self.health.counts()
        interval = self.normalized.steepness(self.rows, group)
        return {
            "normalized_steepness": float(interval.value),
            "normalized_steepness_low": float(interval.low),
            "normalized_steepness_high": float(interval.high),
            "largest_sample_share": self.normalized.largest_share(self.rows),
            "steepness": self.statistics.steepness,
            "interference": self.statistics.interference(self.directions),
            "dead": counts["dead"],
            "duplicates": counts["duplicates"],
            "twins": self.normalized.twins(self.rows),
        }

    @property
    def health(self) -> Health:
        """What is wrong with them."""
        return health(self.directions, self.leads.count)


@torch.no_grad()
def evaluate(
    batches: Iterable[tuple[Any, LinearizedBatch]],
    sets: Mapping[str, Float[Tensor, "K P"]],
    n_examples: int,
) -> dict[str, Evaluated]:
    """Evaluate several sets of directions in one pass over samples; every rank has its share and gets the whole.

    Args:
        batches: with ``sample_id``, and the same linearized.
        sets: directions by name.
        n_examples: how many top samples are wanted of each direction.
    """
    everything = torch.cat(list(sets.values()))
    sizes = [len(directions) for directions in sets.values()]
    device = everything.device
    metrics = {
        name: (
            CurvatureStatisticsMetric(len(directions)).to(device),
            LeadMetric(len(directions)).to(device),
            TopExamplesMetric(len(directions), n_examples).to(device),
        )
        for name, directions in sets.items()
    }
    normalized = NormalizedMetric()
    with Waiting("Judging the directions and their controls, batch", None) as waiting:
        for done, (batch, linearized) in enumerate(batches, start=1):
            values = linearized.d2D(everything)
            normalized.update(values, linearized.trace, batch.sample_id)
            for (statistics, leads, top), part in zip(metrics.values(), values.split(sizes), strict=True):
                statistics.update(part)
                leads.update(part)
                top.update(part, batch.sample_id)
            waiting.reach(done)
    together = normalized.compute()
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return {
        name: Evaluated(sets[name], *(metric.compute() for metric in of_set), together, slice(end - size, end))  # type: ignore[arg-type,call-arg]
        for (name, of_set), size, end in zip(metrics.items(), sizes, ends, strict=True)
    }


def mean_by_feature(
    linearizer: Linearizer, directions: Float[Tensor, "K P"], feature_inputs: Iterable[Tensor]
) -> Float[Tensor, "K features"]:
    """Mean d2D of each direction over the samples on which one feature alone is present."""
    batches = (linearizer(inputs.to(directions.device)) for inputs in feature_inputs)
    return torch.stack([batch.d2D(directions).flatten(1).mean(1) for batch in batches], 1)


def orthonormal_basis(directions: Float[Tensor, "K P"]) -> Float[Tensor, "r P"]:
    """An orthonormal basis of what directions span; fewer rows than they have where they depend on each other."""
    _, values, right = torch.linalg.svd(directions.double(), full_matrices=False)
    return right[values > 1e-6 * values[0]].to(directions)


def mean_and_spread(draws: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of each figure over draws."""
    table = {name: torch.tensor([float(draw[name]) for draw in draws], dtype=torch.float64) for name in draws[0]}
    return (
        {name: float(values.mean()) for name, values in table.items()},
        {name: float(values.std(correction=1)) if len(draws) > 1 else 0.0 for name, values in table.items()},
    )
