"""Moments of curvature and the interference matrix, against sums written out."""

import pytest
import torch

from eigen_lightning.analysis.curvature_statistics import CurvatureStatisticsMetric
from tests.networks import unit_rows


@pytest.mark.parametrize("n_directions", [1, 4])
def test_against_sums_written_out(n_directions: int) -> None:
    curvature = torch.rand(n_directions, 10, 3, dtype=torch.float64)
    directions = unit_rows(n_directions, 6)
    metric = CurvatureStatisticsMetric(n_directions)
    for part in curvature.split(4, dim=1):
        metric.update(part)
    found = metric.compute()
    flat = curvature.flatten(1)
    matrix = torch.zeros(n_directions, n_directions, dtype=torch.float64)
    interference = 0.0
    for k in range(n_directions):
        for m in range(n_directions):
            cosine = float(directions[k] @ directions[m])
            matrix[k, m] = (flat[k] * flat[m]).mean() * cosine**2
            if k > m:
                interference += float(((flat[k] * flat[m]) ** 2).mean()) * cosine**2
    assert found.n_samples == 30
    torch.testing.assert_close(found.mean, flat.mean(1))
    torch.testing.assert_close(found.maximum, flat.amax(1))
    torch.testing.assert_close(found.interference_matrix(directions), matrix)
    assert found.steepness == pytest.approx(float(flat.square().sum(0).mean()))
    assert found.interference(directions) == pytest.approx(interference)


def test_normalized_matrix_has_ones_on_its_diagonal_and_no_more_elsewhere() -> None:
    metric = CurvatureStatisticsMetric(4)
    metric.update(torch.rand(4, 50))
    matrix = metric.compute().interference_matrix(unit_rows(4, 6), normalized=True)
    torch.testing.assert_close(matrix.diagonal(), torch.ones(4, dtype=torch.float64))
    assert matrix.max() <= 1 + 1e-12


def test_directions_without_curvature_give_no_nan() -> None:
    metric = CurvatureStatisticsMetric(2)
    metric.update(torch.zeros(2, 5))
    assert torch.isfinite(metric.compute().interference_matrix(unit_rows(2, 3), normalized=True)).all()
