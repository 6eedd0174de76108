"""Rows shared out among processes against the whole matrix on one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from eigen_lightning.learning import starts
from eigen_lightning.learning.polar import polar_rows
from eigen_lightning.learning.shared_rows import SharedRows, shares
from eigen_lightning.run.seeding import derive_seed
from tests.parallel.together import together


def shared(shape: tuple[int, int], check: Callable[[SharedRows, Tensor, Tensor], None]) -> Callable[[int], None]:
    """Call a check with the matrix and this process's rows of it."""

    def run(rank: int) -> None:
        whole = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        rows = SharedRows(dist.group.WORLD, *shape)
        check(rows, whole, whole[rows.first : rows.first + rows.count])

    return run


# Rows and columns that three processes share unevenly, or not all of them have.
@pytest.mark.parametrize("shape", [(5, 13), (7, 2), (3, 4)])
def test_exchange_for_columns_and_back(shape: tuple[int, int], tmp_path: Path) -> None:
    def check(rows: SharedRows, whole: Tensor, own: Tensor) -> None:
        columns = rows.to_columns(own)
        wanted = whole.split(shares(shape[1], 3), dim=1)[dist.get_rank()]
        assert torch.equal(columns, wanted)
        assert torch.equal(rows.to_rows(columns), own)
        assert torch.equal(rows.gather(own), whole)
        put_together = rows.whole_on_first(own)
        assert (put_together is None) if dist.get_rank() else torch.equal(put_together, whole)
        torch.testing.assert_close(rows.gram(columns), whole @ whole.T)

    together(3, shared(shape, check), tmp_path)


# The last has more rows than columns: groups, of which one lies on two processes.
@pytest.mark.parametrize("shape", [(5, 13), (6, 6), (8, 3)])
def test_the_polar_factor_is_that_of_the_whole(shape: tuple[int, int], tmp_path: Path) -> None:
    def check(rows: SharedRows, whole: Tensor, own: Tensor) -> None:
        part = slice(rows.first, rows.first + rows.count)
        torch.testing.assert_close(rows.polar(own), polar_rows(whole)[part], rtol=0, atol=1e-12)
        in_float32 = rows.polar(1e-12 * own.float())
        torch.testing.assert_close(in_float32, polar_rows(whole.float())[part], rtol=0, atol=1e-6)

    together(3, shared(shape, check), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_polar_factor_of_an_ill_conditioned_matrix(dtype: torch.dtype, tmp_path: Path) -> None:
    """Singular values over six decades: the Gram matrix's span twelve."""

    def check(rows: SharedRows, whole: Tensor, own: Tensor) -> None:
        left, _, right = torch.linalg.svd(whole, full_matrices=False)
        matrix = left * torch.logspace(0, -6, 5, dtype=torch.float64) @ right
        found = rows.gather(rows.polar(matrix[rows.first : rows.first + rows.count].to(dtype)))
        gram = (found @ found.T).double()
        torch.testing.assert_close(gram, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-6)
        if dtype == torch.float64:
            torch.testing.assert_close(found, left @ right, rtol=0, atol=1e-6)

    together(2, shared((5, 13), check), tmp_path)


@pytest.mark.parametrize("lost", [[2], [0, 4], [0, 1, 2, 3, 4]])
def test_rows_that_depend_on_others_become_orthogonal_to_them(lost: list[int], tmp_path: Path) -> None:
    def check(rows: SharedRows, whole: Tensor, own: Tensor) -> None:
        matrix = whole.clone()
        matrix[lost] = 0
        found = rows.gather(rows.polar(matrix[rows.first : rows.first + rows.count]))
        torch.testing.assert_close(found @ found.T, torch.eye(5, dtype=torch.float64))
        kept = [row for row in range(5) if row not in lost]
        if kept:
            torch.testing.assert_close(found[kept], polar_rows(matrix[kept]))

    together(2, shared((5, 7), check), tmp_path)


# Whole blocks, a last one that is no multiple of 16, fewer numbers than 16 in all, and in the last block.
@pytest.mark.parametrize("shape", [(8, 16), (9, 13), (3, 4), (5, 21)])
def test_rows_of_a_start_are_those_of_the_whole_start(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "DRAWN", 32)
    generator = torch.Generator().manual_seed(derive_seed(3, "start", 1))
    whole = torch.randn(shape, generator=generator, dtype=torch.float64)
    parts = [
        starts.random_rows(*shape, 3, 1, slice(first, min(first + 2, shape[0]))) for first in range(0, shape[0], 2)
    ]
    assert torch.equal(torch.cat(parts), whole)
