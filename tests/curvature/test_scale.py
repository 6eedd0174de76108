"""The scale of d2D, from traces."""

import pytest
import torch

from eigen_lightning.curvature import Chunk, LinearizedBatch, Scale, TraceNormalization
from eigen_lightning.run.errors import UserError


def divisor(scale: Scale, traces: torch.Tensor) -> torch.Tensor | float:
    """Of a batch whose traces are known."""
    nothing = torch.zeros(1)
    return LinearizedBatch(nothing, lambda U: U, lambda t: t, nothing, Chunk(), traces, scale).divisor


def test_the_floor_is_a_quantile_of_the_positive_traces_and_the_mean_is_of_all() -> None:
    traces = torch.tensor([0.0, 5.0, 1.0, 2.0, 4.0, 3.0])
    for quantile, floor in ((0.0, 1.0), (0.25, 2.0), (0.5, 3.0), (0.99, 4.0)):
        scale = Scale.fit(TraceNormalization(power=0.5, floor_quantile=quantile), traces)
        assert (scale.power, scale.floor, scale.mean) == (0.5, floor, 2.5)


def test_divisors_by_hand() -> None:
    traces = torch.tensor([0.0, 4.0, 9.0])
    assert divisor(Scale(0.0, 1.0, 3.0), traces) == 3.0
    torch.testing.assert_close(divisor(Scale(0.5, 1.0, 4.0), traces), torch.tensor([2.0, 4.0, 6.0]))
    torch.testing.assert_close(divisor(Scale(1.0, 1.0, 4.0), traces), torch.tensor([1.0, 4.0, 9.0]))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_scaled_curvature_is_the_same_at_any_scale_of_the_outputs(power: float) -> None:
    d, traces = torch.rand(3, 8, dtype=torch.float64), torch.rand(8, dtype=torch.float64) + 0.1
    normalization = TraceNormalization(power=power)
    one, other = (
        factor * d / divisor(Scale.fit(normalization, factor * traces), factor * traces) for factor in (1.0, 1e6)
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("traces", "message"),
    [([0.0, 0.0], "zero curvature on all of 2 samples"), ([1.0, torch.inf, torch.nan], "got 2 of 3 samples without")],
)
def test_samples_without_a_scale_are_refused(traces: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Scale.fit(TraceNormalization(), torch.tensor(traces))


@pytest.mark.parametrize("settings", [{"power": 1.1}, {"power": -0.1}, {"floor_quantile": 1.0}, {"probes": 0}])
def test_numbers_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"normalization\.{next(iter(settings))}"):
        TraceNormalization(**settings)
