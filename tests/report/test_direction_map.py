"""The map of all directions: where points stand, what they lead to, and when there is none."""

import re
from pathlib import Path

import pytest

from eigen_lightning.report.direction_map import direction_map
from eigen_lightning.report.writing import write_report
from tests.report.folders import make_run


def test_points_stand_by_logarithm_and_lead_to_their_cards() -> None:
    drawn = direction_map([1.0, 10.0, 100.0], [2.0, 20.0, 2.0], ["a", "<b>", "c"])
    points = re.findall(r'href="#direction-(\d)" aria-label="([^"]*)"><circle cx="([\d.]+)" cy="([\d.]+)"', drawn)
    assert [point[0] for point in points] == ["0", "1", "2"]
    assert "&lt;b&gt;: steepness 10, selectivity 20" in points[1][1]
    x, y = ([float(point[axis]) for point in points] for axis in (2, 3))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2), "equal ratios are equal steps"
    assert y[1] < y[0] == y[2], "more selective is higher"


def test_what_was_not_measured_has_no_point() -> None:
    drawn = direction_map([1.0, None, 0.0, 2.0, 3.0], [2.0, 3.0, 4.0, None, 5.0], list("abcde"))
    assert re.findall(r"#direction-(\d)", drawn) == ["0", "4"]
    assert direction_map([1.0, 2.0], [None, float("inf")], ["a", "b"]) == ""
    assert direction_map([1.0], [1.0], ["a"]) == ""


def test_it_stands_in_the_report_and_not_without_causal_checks(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "tms", "tms")).read_text(encoding="utf-8")
    assert 'class="map"' in page
    run = make_run(tmp_path / "bare", "tms")
    run.interventions.unlink(missing_ok=True)
    assert 'class="map"' not in write_report(run).read_text(encoding="utf-8")
