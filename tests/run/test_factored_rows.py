"""U whose rows are written out when asked for, against the dense matrix."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from eigen_lightning.run import factored_rows
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.factored_rows import FactoredRows, blocks, check_dense, dense, inner, isometric
from eigen_lightning.run.folder import RunFolder

SHAPES = {"a": (4, 6), "bias": (5,), "b": (3, 2)}


def rows(count: int = 7) -> tuple[FactoredRows, torch.Tensor]:
    """Of rank two in ``a`` and one in ``b``, and what they stand for."""
    a, b = (torch.randn(count, 4, 2), torch.randn(count, 6, 2)), (torch.randn(count, 3, 1), torch.randn(count, 2, 1))
    bias = torch.randn(count, 5)
    whole = [torch.einsum("kmr,knr->kmn", *a).flatten(1), bias, torch.einsum("kmr,knr->kmn", *b).flatten(1)]
    return FactoredRows({"a": a, "bias": bias, "b": b}), torch.cat(whole, 1)


def test_rows_are_written_out_as_a_matrix_is_indexed() -> None:
    U, expected = rows()
    assert U.shape == expected.shape
    assert len(U) == 7
    for index in (0, -1, slice(2, 5), slice(None), [1, 6]):
        torch.testing.assert_close(U[index], expected[index])
    torch.testing.assert_close(torch.stack(list(U)), expected)


def test_blocks_are_all_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    U, expected = rows()
    monkeypatch.setattr(factored_rows, "ROWS_OF", 3 * U.shape[1])
    assert [len(block) for block in blocks(U)] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(list(blocks(U))), expected)
    assert torch.equal(torch.cat(list(blocks(expected))), expected)


def test_isometric_rows_have_the_inner_products_of_the_directions() -> None:
    U, expected = rows()
    gram = expected.double() @ expected.double().T
    torch.testing.assert_close(inner(U.parts, U.parts), gram, rtol=1e-5, atol=1e-5)
    few = isometric(U)
    assert few.shape == (7, 7)
    torch.testing.assert_close(few @ few.T, gram, rtol=1e-5, atol=1e-5)
    assert isometric(expected) is expected


def test_what_needs_too_many_dense_rows_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    U, expected = rows()
    torch.testing.assert_close(dense(U, "a test"), expected)
    monkeypatch.setattr(factored_rows, "ASKED_UP_TO", 100)
    with pytest.raises(UserError, match=r"at most 100 numbers in U for a test, .* got 7 directions of 35"):
        dense(U, "a test")
    check_dense(2, 35, "a test")
    assert dense(expected, "a test") is expected


def test_a_folder_of_factors_alone_gives_back_the_rows(tmp_path: Path) -> None:
    U, expected = rows()
    run = RunFolder(tmp_path)
    factors = {
        "a/writes": U.parts["a"][0], "a/reads": U.parts["a"][1], "bias": U.parts["bias"],
        "b/writes": U.parts["b"][0], "b/reads": U.parts["b"][1],
    }  # fmt: skip
    run.write_directions(U, SHAPES, factors)
    with safe_open(run.directions, framework="pt") as file:
        assert "U" not in file.keys()  # noqa: SIM118 - no mapping
    read, shapes = run.read_directions()
    assert shapes == SHAPES
    assert isinstance(read, FactoredRows)
    assert torch.equal(read[:], U[:])
    # In the order of P, whatever order the file has them in.
    torch.testing.assert_close(read[3], expected[3])
