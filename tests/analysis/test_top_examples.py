"""Top examples: exact over batches and ranks, ties by identity."""

import torch
from torch import Tensor

from eigen_lightning.analysis.top_examples import TopExamplesMetric


def best_by_hand(curvature: Tensor, sample_id: Tensor, n: int) -> list[list[tuple[float, int, int]]]:
    """Sort everything: value down, then sample, then position up."""
    rows = []
    for row in curvature:
        every = [
            (float(value), int(sample), position)
            for sample, values in zip(sample_id, row.reshape(len(sample_id), -1), strict=True)
            for position, value in enumerate(values)
        ]
        rows.append(sorted(every, key=lambda item: (-item[0], item[1], item[2]))[:n])
    return rows


def as_rows(found) -> list[list[tuple[float, int, int]]]:
    return [
        list(zip(*triple, strict=True))
        for triple in zip(found.value.tolist(), found.sample_id.tolist(), found.position.tolist(), strict=True)
    ]


def stream() -> tuple[Tensor, Tensor]:
    # Few distinct values, so that ties are everywhere.
    return torch.randint(4, (3, 40, 5)).float(), torch.randperm(40)


def test_exact_over_batches_with_ties() -> None:
    curvature, sample_id = stream()
    metric = TopExamplesMetric(3, 7)
    for part in torch.arange(40).split(9):
        metric.update(curvature[:, part], sample_id[part])
    assert as_rows(metric.compute()) == best_by_hand(curvature, sample_id, 7)


def test_two_ranks_together_are_one() -> None:
    """As torchmetrics does it: states of the ranks stacked, then computed."""
    curvature, sample_id = stream()
    ranks = [TopExamplesMetric(3, 7) for _ in range(2)]
    for rank, metric in enumerate(ranks):
        metric.update(curvature[:, rank::2], sample_id[rank::2])
    joined = TopExamplesMetric(3, 7)
    for name in ("value", "sample_id", "position"):
        setattr(joined, name, torch.stack([getattr(metric, name) for metric in ranks]))
    joined._update_count = 1
    assert as_rows(joined.compute()) == best_by_hand(curvature, sample_id, 7)


def test_fewer_samples_than_asked_for_leave_marked_places() -> None:
    metric = TopExamplesMetric(2, 5)
    metric.update(torch.rand(2, 3), torch.tensor([4, 5, 6]))
    found = metric.compute()
    assert found.sample_id[:, 3:].eq(-1).all()
    assert sorted(found.sample_id[0, :3].tolist()) == [4, 5, 6]


def test_one_direction_and_one_example_keep_their_dimensions() -> None:
    metric = TopExamplesMetric(1, 1)
    metric.update(torch.tensor([[1.0, 3.0]]), torch.tensor([8, 9]))
    assert as_rows(metric.compute()) == [[(3.0, 9, 0)]]
