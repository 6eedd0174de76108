"""Success rates, their intervals, and runs that are not repeated."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from eigen_lightning.cli.many_runs import Run, claim, run_all
from eigen_lightning.cli.stability import pairwise, stability, succeeded, summarize
from eigen_lightning.cli.sweep_lambda import sweep, sweep_lambda
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder

XOR = str(Path(__file__).parents[2] / "configs" / "xor.yaml")
SHORT = ("--trainer.max_epochs=1", "--data.samples_per_epoch=256", "--model.starts.count=4", "--model.starts.steps=10")


def figures(mcc: float) -> dict[str, float]:
    return {"mcc": mcc, "matched": 3, "selectivity": 0.5 * mcc, "uniqueness": 1, "steepness": 2, "dead": 0}


def row(success: bool, mcc: float = 1.0) -> dict[str, Any]:
    columns = {column: figures(mcc) for column in ("learned", "random", "pca")}
    return {"success": success, **columns, "oracle": figures(1.0), "seconds": 1.0}


def wilson(successes: int, runs: int) -> tuple[float, float]:
    z, rate = 1.959963984540054, successes / runs
    center = (rate + z**2 / (2 * runs)) / (1 + z**2 / runs)
    half = z / (1 + z**2 / runs) * math.sqrt(rate * (1 - rate) / runs + z**2 / (4 * runs**2))
    return center - half, center + half


@pytest.mark.parametrize(("successes", "runs"), [(49, 50), (50, 50), (3, 10), (0, 5)])
def test_rate_comes_with_its_wilson_interval(successes: int, runs: int) -> None:
    summary = summarize([row(number < successes) for number in range(runs)], [])
    assert summary["rate"] == successes / runs
    assert summary["wilson_95"] == pytest.approx(wilson(successes, runs), abs=1e-9)


def test_distribution_is_over_runs_that_finished_and_a_failure_counts_against_the_rate() -> None:
    summary = summarize([row(True, 0.9), row(True, 0.8), {"success": False, "failure": "no target"}], [0.7, 0.9])
    assert (summary["successes"], summary["runs"], summary["failures"]) == (2, 3, 1)
    assert summary["learned"]["mcc"]["mean"] == pytest.approx(0.85)
    assert summary["learned"]["mcc"]["min"] == 0.8
    assert summary["selectivity_of_oracle"]["mean"] == pytest.approx(0.85)
    assert summary["pairwise_mcc"]["median"] == pytest.approx(0.8)


def finished(folder: Path, leaders: list[list[float]], directions: torch.Tensor | None = None) -> RunFolder:
    results = RunFolder(folder)
    results.write_top_examples({"direction": k, "examples": [{"input": leader}]} for k, leader in enumerate(leaders))
    results.write_json(results.scorecard, {"learned": {"matched": 2}, "features": 3})
    results.write_json(results.manifest, {"status": "complete"})
    if directions is not None:
        results.write_directions(directions, {"w": tuple(directions.shape[1:])})
    return results


@pytest.mark.parametrize(
    ("leaders", "success"),
    [([[0, 1], [1, 0], [1, 1]], True), ([[0, 1], [1, 0], [0, 1]], False), ([[0, 1], [1, 0], [0, 0]], False)],
)
def test_leaders_are_different_inputs_none_of_them_zero(tmp_path: Path, leaders: Any, success: bool) -> None:
    results = finished(tmp_path, leaders)
    card = json.loads(results.scorecard.read_text())
    assert succeeded(card, results, "leaders") == success
    assert not succeeded(card, results, "matched")


def test_pairs_are_compared_within_a_target(tmp_path: Path) -> None:
    rows = torch.eye(4)[:2]
    runs = []
    for seed, number, directions in ((0, 0, rows), (0, 1, -rows.flip(0)), (1, 0, torch.eye(4)[2:])):
        finished(tmp_path / f"{seed}{number}", [[1]], directions)
        runs.append((seed, Run(tmp_path / f"{seed}{number}", ())))
    assert pairwise(runs) == pytest.approx([1.0])


def test_runs_of_another_configuration_are_not_mixed(tmp_path: Path) -> None:
    claim(tmp_path, {"config": "a", "overrides": []})
    claim(tmp_path, {"config": "a", "overrides": []})
    with pytest.raises(UserError, match="differ in overrides"):
        claim(tmp_path, {"config": "a", "overrides": ["--x=1"]})


def test_wrong_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seeds of at least 1"):
        stability(XOR, seeds=0, run_dir=str(tmp_path))
    with pytest.raises(UserError, match="which does not exist"):
        stability("nowhere.yaml", run_dir=str(tmp_path))
    with pytest.raises(UserError, match="weights of at least 0"):
        sweep_lambda([XOR], weights=[-1])
    with pytest.raises(UserError, match="jobs of at least 1"):
        run_all([], 0, "")


@pytest.mark.slow
def test_finished_runs_are_kept_and_runs_of_a_target_share_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Any] = {"run_dir": str(tmp_path), "runs_per_target": 2, "overrides": SHORT}
    stability(XOR, seeds=1, criterion="leaders", **arguments)
    report = json.loads((tmp_path / "stability.json").read_text())
    first, second = report["runs"]
    assert first["target_fingerprint"] == second["target_fingerprint"]
    assert report["summary"]["pairwise_mcc"]["mean"] > 0.9
    assert report["summary"]["oracle"]["mcc"]["mean"] == pytest.approx(1)
    assert "success in" in capsys.readouterr().out
    written = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("seed_0000/*/manifest.json"))]
    stability(XOR, seeds=2, criterion="leaders", **arguments)
    assert written == [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("seed_0000/*/manifest.json"))]
    fingerprints = {run["target_fingerprint"] for run in json.loads((tmp_path / "stability.json").read_text())["runs"]}
    assert len(fingerprints) == 2


@pytest.mark.slow
def test_sweep_plots_every_point_with_its_controls(tmp_path: Path) -> None:
    sweep_lambda([XOR], weights=[0.0, 1.0], seeds=1, run_dir=str(tmp_path), overrides=SHORT)
    points = json.loads((tmp_path / "sweep_lambda.json").read_text())["points"]
    assert [point["λ"] for point in points] == [0, 1]
    assert all(point["random"]["mean"] < point["learned"]["mean"] for point in points)
    assert (tmp_path / "sweep_lambda.png").read_bytes().startswith(b"\x89PNG")


def test_sweep_needs_settings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one configuration"):
        sweep(tmp_path, "sweep", "x", [], 1, 1, "mcc")
