"""A linearized batch in chunks, in other scales, and where memory runs out."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from eigen_lightning.curvature import MSE, Chunk, LinearizedBatch, Linearizer, Scale
from eigen_lightning.directions import Coverage, Steepness
from tests.networks import PLAIN, TMS, SmallNetwork, linearized, unit_rows


@pytest.fixture
def batch() -> LinearizedBatch:
    return linearized(SmallNetwork(TMS()), MSE(), torch.rand(7, 5, dtype=torch.float64), traces=PLAIN)


@pytest.mark.parametrize("objective", [Steepness(2.0), Steepness(1.5), Coverage(3.0)], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_chunks_change_nothing(batch: LinearizedBatch, objective: Any, rows: int) -> None:
    U = unit_rows(7, 15)
    whole, parts = (replace(batch, chunk=Chunk(size)).value_and_gradient(U, objective) for size in (None, rows))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(replace(batch, chunk=Chunk(rows)).d2D(U), whole[0])
    torch.testing.assert_close(replace(batch, chunk=Chunk(rows)).cross(U), batch.cross(U))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_scaled_d2d_is_divided_by_the_traces(batch: LinearizedBatch, power: float) -> None:
    scale = Scale(power, floor=0.3, mean=1.7)
    U, scaled = unit_rows(3, 15), batch.scaled_by(scale)
    expected = batch.d2D(U) / (1.7 ** (1 - power) * batch.trace.clamp_min(0.3) ** power)
    torch.testing.assert_close(scaled.scaled(U), expected)
    torch.testing.assert_close(scaled.value_and_gradient(U, Steepness())[0], expected)
    torch.testing.assert_close(scaled.d2D(U), batch.d2D(U))


def test_a_trace_is_computed_once_whatever_the_scale(batch: LinearizedBatch) -> None:
    calls: list[int] = []

    def quadratic(t: Tensor) -> Tensor:
        calls.append(len(t))
        return batch.quadratic(t)

    counted = replace(batch, quadratic=quadratic)
    trace = counted.trace
    for _ in range(3):
        assert torch.equal(counted.scaled_by(Scale(1.0, 0.1, 1.0)).trace, trace)
    assert sum(calls) == 1


def scarce(batch: LinearizedBatch, most: int) -> LinearizedBatch:
    """Memory for so many directions at a time."""

    def push(U: Tensor) -> Tensor:
        if len(U) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch.push(U)

    return replace(batch, push=push, chunk=Chunk(6))


@pytest.mark.parametrize("objective", [Steepness(), Coverage()], ids=str)
def test_where_memory_runs_out_half_as_many_directions_are_evaluated_at_a_time(
    batch: LinearizedBatch, objective: Any, caplog: pytest.LogCaptureFixture
) -> None:
    U, little = unit_rows(6, 15), scarce(batch, 2)
    expected, got = (each.value_and_gradient(U, objective) for each in (batch, little))
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(one, other)
    assert little.chunk.rows == 1
    assert "1 directions are evaluated at a time" in caplog.text
    torch.testing.assert_close(scarce(batch, 3).d2D(U), batch.d2D(U))


def test_where_not_even_one_fits_the_error_is_torchs(batch: LinearizedBatch) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        scarce(batch, 0).d2D(unit_rows(6, 15))


def test_other_errors_are_not_taken_for_want_of_memory(batch: LinearizedBatch) -> None:
    broken = scarce(batch, 6)
    with pytest.raises(RuntimeError, match=r"mat1 and mat2|size|shape|split"):
        broken.d2D(unit_rows(6, 14))
    assert broken.chunk.rows == 6


def test_directions_at_a_time_follow_the_memory_budget_and_divide_evenly() -> None:
    network, inputs = SmallNetwork(TMS()), torch.rand(1024, 5, dtype=torch.float64)

    def rows(**options: Any) -> int | None:
        chunk = Chunk(**options)
        Linearizer.prepare(network, MSE(), inputs, chunk=chunk, n_directions=64, traces=PLAIN)
        return chunk.rows

    assert rows(memory_budget=1e-12) == 1
    small, large = rows(memory_budget=1e-3), rows(memory_budget=2e-3)
    assert 1 < small < large < 64
    assert rows(memory_budget=64.0) in (32, 64)
    assert rows(rows=5) == 5
