"""The heat map of where directions lie in the network."""

import re

import numpy as np
import torch

from eigen_lightning.report.share_map import MOST_COLUMNS, MOST_ROWS, share_map, shares_by_place
from eigen_lightning.report.writing import write_report
from tests.report.folders import make_run

SHAPES = {"W": (2, 2), "<b>": (2,)}


def test_shares_are_those_of_squared_norm() -> None:
    U = np.array([[1.0, 0, 0, 0, 0, 0], [0, 3, 0, 0, 4, 0], [0, 0, 0, 0, 0, 0]]) / [[1], [5], [1]]
    names, shares = shares_by_place(U, SHAPES, {})
    assert names == list(SHAPES)
    np.testing.assert_allclose(shares, [[1, 0], [0.36, 0.64], [0, 0]])
    drawn = share_map(torch.from_numpy(U), SHAPES)
    assert re.findall(r"direction 1: (\d+)% in ([^<]+)<", drawn) == [("36", "W"), ("64", "&lt;b&gt;")]


def test_one_parameter_needs_no_map_and_many_directions_are_cut() -> None:
    assert share_map(torch.ones((3, 4)), {"W": (2, 2)}) == ""
    assert share_map(torch.ones((MOST_ROWS + 5, 6)), SHAPES).count("<rect") == 2 * MOST_ROWS


def test_heads_are_places_of_their_own_along_their_axis() -> None:
    U = np.zeros((1, 8 + 8))
    U[0, :8] = [3, 0, 0, 0, 0, 0, 4, 0]
    names, shares = shares_by_place(U, {"W_Q": (2, 4), "W_O": (4, 2)}, {"W_Q": (2, 0), "W_O": (2, -1)})
    assert names == ["W_Q head 0", "W_Q head 1", "W_O head 0", "W_O head 1"]
    np.testing.assert_allclose(shares, [[0.36, 0.64, 0, 0]])
    U[0] = 0
    # The second column of W_O.
    U[0, 9::2] = 1
    np.testing.assert_allclose(shares_by_place(U, {"W_Q": (2, 4), "W_O": (4, 2)}, {"W_O": (2, -1)})[1], [[0, 0, 1]])
    alone = share_map(torch.ones((2, 8)), {"W_Q": (2, 4)}, {"W_Q": (2, 0)})
    assert "50% in W_Q head 1" in alone
    many = {"W_Q": (MOST_COLUMNS + 1, 1), "b": (1,)}
    together = share_map(torch.ones((2, MOST_COLUMNS + 2)), many, {"W_Q": (MOST_COLUMNS + 1, 0)})
    assert "head" not in together.split(">", 1)[1]


def test_it_stands_in_the_report(tmp_path) -> None:
    page = write_report(make_run(tmp_path, "tms")).read_text(encoding="utf-8")
    assert 'class="shares"' in page
    assert "Where the directions lie" not in write_report(make_run(tmp_path / "one", "text")).read_text(
        encoding="utf-8"
    )


def test_many_parameters_are_named_by_the_first_and_the_last(tmp_path) -> None:
    run = make_run(tmp_path, "tms")
    manifest = run.read_json(run.manifest)
    run.write_json(run.manifest, {**manifest, "parameters": {f"blocks.{k}.W": [2, 3] for k in range(9)}})
    page = write_report(run).read_text(encoding="utf-8")
    assert "blocks.5.W 2×3 and 3 more to blocks.8.W 2×3" in page
    assert "blocks.6.W" not in page
