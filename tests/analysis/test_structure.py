"""Structure against SVD, directions built by hand, and shapes that have none."""

import json
import math

import pytest
import torch
from torch import Tensor

from eigen_lightning.analysis import structure as module
from eigen_lightning.analysis.structure import structure

SHAPES = {"W_K": (8, 6), "b_K": (8,), "W_in": (6, 10), "conv": (4, 2, 3), "row": (1, 5)}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())


def parts_of(row: Tensor) -> dict[str, Tensor]:
    sizes = [math.prod(shape) for shape in SHAPES.values()]
    return dict(zip(SHAPES, row.split(sizes), strict=True))


def test_shares_are_those_of_the_singular_values(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two of them at a time: 130 numbers hold two of the largest matrix.
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 130)
    directions = torch.randn(5, SIZE)
    found = structure(directions, SHAPES)
    for k, row in enumerate(directions.double()):
        first, norms = [], []
        for name, part in parts_of(row).items():
            assert found.by_parameter[name][k] == pytest.approx(float(part.square().sum() / row.square().sum()))
            if name in ("W_K", "W_in", "conv"):
                values = torch.linalg.svdvals(part.reshape(SHAPES[name][0], -1)).square()
                assert found.first_singular[name][k] == pytest.approx(float(values[0] / values.sum()))
                first.append(values[0])
                norms.append(values.sum())
        assert found.first_singular_share[k] == pytest.approx(float(sum(first) / sum(norms)))
    assert set(found.first_singular) == {"W_K", "W_in", "conv"}
    assert found.head == {}
    assert found.head_share.isnan().all()
    assert found.means() == {"first_singular_share": pytest.approx(float(found.first_singular_share.mean()))}


def test_rank_one_in_one_head_is_all_in_one_pair_and_one_head() -> None:
    matrix = torch.zeros(8, 6)
    matrix[4:6] = torch.outer(torch.randn(2), torch.randn(6))
    row = torch.cat([matrix.flatten(), torch.zeros(8)])[None]
    found = structure(row, {"W_K": (8, 6), "b_K": (8,)}, heads={"W_K": (4, 0)})
    assert found.first_singular_share == pytest.approx(1)
    assert found.leading_head["W_K"].tolist() == [2]
    assert found.head_share == pytest.approx(1)
    assert found.by_parameter["b_K"].item() == 0


def test_heads_lie_along_the_axis_that_is_named() -> None:
    directions = torch.randn(3, 48)
    found = structure(directions, {"W_O": (6, 8)}, heads={"W_O": (4, 1)})
    by_head = torch.stack([directions.view(3, 6, 8)[:, :, 2 * h : 2 * h + 2].square().sum((1, 2)) for h in range(4)], 1)
    torch.testing.assert_close(found.head["W_O"].float(), by_head.amax(1) / by_head.sum(1))
    assert torch.equal(found.leading_head["W_O"], by_head.argmax(1))
    again = structure(directions, {"W_O": (6, 8)}, heads={"W_O": (4, -1)})
    assert torch.equal(again.head_share, found.head_share)


def test_heads_of_several_parameters_are_averaged_by_their_norms() -> None:
    query, key = torch.zeros(4, 3), torch.zeros(4, 3)
    query[0], key[:] = 3, 1
    row = torch.cat([query.flatten(), key.flatten()])[None]
    found = structure(row, {"W_Q": (4, 3), "W_K": (4, 3)}, heads={"W_Q": (4, 0), "W_K": (2, 0)})
    assert found.head_share.item() == pytest.approx((27 * 1 + 12 * 0.5) / 39)


def test_what_is_not_there_is_none_in_json() -> None:
    found = structure(torch.eye(5)[:2], {"b": (4,), "c": (1,)}).to_json()
    assert found["first_singular_share"] == [None, None]
    assert found["by_parameter"] == {"b": [1, 1], "c": [0, 0]}
    silent = structure(torch.zeros(1, 12), {"W": (4, 3)}, heads={"W": (2, 0)}).to_json()
    assert silent["by_parameter"]["W"] == silent["first_singular"]["W"] == silent["head_share"] == [None]
    json.dumps([found, silent], allow_nan=False)


@pytest.mark.parametrize(
    ("shapes", "heads", "message"),
    [({"W": (3, 3)}, None, "9 numbers for directions of 12"), ({"W": (4, 3)}, {"W": (3, 0)}, "3 heads")],
)
def test_shapes_that_do_not_fit_are_refused(shapes, heads, message) -> None:
    with pytest.raises(ValueError, match=message):
        structure(torch.randn(2, 12), shapes, heads)


def test_random_matrices_have_the_share_that_random_matrix_theory_gives() -> None:
    """The largest squared singular value of an n x n Gaussian matrix is about 4n of n^2."""
    found = structure(torch.randn(40, 64 * 64), {"W_K": (64, 64)}, heads={"W_K": (16, 0)})
    assert float(found.first_singular_share.mean()) == pytest.approx(4 / 64, rel=0.1)
    assert 1 / 16 < float(found.head_share.mean()) < 1.3 / 16
