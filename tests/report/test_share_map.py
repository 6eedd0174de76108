"""The heat map of where directions lie in the network."""

import re

import numpy as np

from eigen_lightning.report.share_map import MOST_ROWS, share_map, shares_by_parameter
from eigen_lightning.report.writing import write_report
from tests.report.folders import make_run

SHAPES = {"W": (2, 2), "<b>": (2,)}


def test_shares_are_those_of_squared_norm() -> None:
    U = np.array([[1.0, 0, 0, 0, 0, 0], [0, 3, 0, 0, 4, 0], [0, 0, 0, 0, 0, 0]]) / [[1], [5], [1]]
    np.testing.assert_allclose(shares_by_parameter(U, SHAPES), [[1, 0], [0.36, 0.64], [0, 0]])
    drawn = share_map(U, SHAPES)
    assert re.findall(r"direction 1: (\d+)% in ([^<]+)<", drawn) == [("36", "W"), ("64", "&lt;b&gt;")]


def test_one_parameter_needs_no_map_and_many_directions_are_cut() -> None:
    assert share_map(np.ones((3, 4)), {"W": (2, 2)}) == ""
    assert share_map(np.ones((MOST_ROWS + 5, 6)), SHAPES).count("<rect") == 2 * MOST_ROWS


def test_it_stands_in_the_report(tmp_path) -> None:
    page = write_report(make_run(tmp_path, "tms")).read_text(encoding="utf-8")
    assert 'class="shares"' in page
    assert "Where the directions lie" not in write_report(make_run(tmp_path / "one", "text")).read_text(
        encoding="utf-8"
    )
