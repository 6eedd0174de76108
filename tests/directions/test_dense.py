"""Rows: reproducible chance and canonical signs."""

import torch

from eigen_lightning.directions.dense import random_rows, with_canonical_sign


def test_random_rows_are_unit_and_come_from_the_seed_and_their_purpose() -> None:
    rows = random_rows(4, 50, 3, "start")
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert torch.equal(rows, random_rows(4, 50, 3, "start"))
    for other in (random_rows(4, 50, 4, "start"), random_rows(4, 50, 3, "end")):
        assert (rows - other).abs().max() > 0.1
    assert (rows @ rows.T - torch.eye(4)).abs().max() < 0.6


def test_random_rows_do_not_depend_on_the_device_that_torch_uses_by_default() -> None:
    rows = random_rows(4, 50, 3, "start")
    with torch.device("meta"):
        assert torch.equal(rows, random_rows(4, 50, 3, "start"))


def test_a_row_and_its_negative_have_the_same_canonical_sign() -> None:
    rows = random_rows(30, 7, 0, "rows")
    canonical = with_canonical_sign(rows)
    assert torch.equal(canonical, with_canonical_sign(-rows))
    assert torch.equal(canonical, with_canonical_sign(canonical))
    assert torch.equal(canonical.abs(), rows.abs())
    assert torch.equal(with_canonical_sign(rows[[3]]), canonical[[3]])


def test_rounding_does_not_choose_the_sign_of_a_row_with_two_equally_large_entries() -> None:
    rows = torch.tensor([[0.5**0.5, -(0.5**0.5), 0.0], [0.0, -(0.5**0.5), 0.5**0.5]], dtype=torch.float64)
    canonical = with_canonical_sign(rows)
    for _ in range(20):
        moved = with_canonical_sign(rows + 1e-12 * torch.randn(2, 3, dtype=torch.float64))
        torch.testing.assert_close(moved, canonical, rtol=0, atol=1e-11)


def test_dtype_and_values_of_float32_rows_stay() -> None:
    rows = random_rows(3, 5, 0, "rows").float()
    canonical = with_canonical_sign(rows)
    assert canonical.dtype == torch.float32
    assert torch.equal(canonical.abs(), rows.abs())
