"""Seeds times a grid: what is run, what is shared, what is kept, how often the truth was found."""

import io
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

from eigen_lightning.api import study as module
from eigen_lightning.api.study import StudyRun, label, settings, study
from eigen_lightning.api.study_results import Study, outcome
from eigen_lightning.cli.main import _named, run
from eigen_lightning.cli.study import study as command
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder

XOR = str(Path(__file__).parents[2] / "configs" / "xor.yaml")
SHORT = ["--trainer.max_epochs=1", "--data.samples_per_epoch=128", "--model.start.steps=10"]


def text(made: Study) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(made.table())
    return console.export_text()


# ------------------------------------------------------------------------------------------------------- the grid


def test_the_grid_is_all_combinations_and_a_list_is_taken_as_it_is() -> None:
    grid = settings({"a.b": [1, 2.5], "c": ["x", None]})
    assert grid == [{"a.b": a, "c": c} for a, c in itertools.product([1, 2.5], ["x", None])]
    shapes = [{"model.target.features": 12, "model.n_directions": 12}, {}]
    assert settings([*shapes, shapes[0]]) == shapes
    assert settings(None) == [{}]


@pytest.mark.parametrize(
    ("vary", "match"),
    [
        ({"a": 1}, "lists of values"),
        ({"a": []}, "at least one"),
        ([], "at least one"),
        ([{"seed_everything": 1}], "use seeds"),
    ],
)
def test_a_grid_that_is_none_is_refused(vary: Any, match: str) -> None:
    with pytest.raises(UserError, match=match):
        settings(vary)


def test_labels_are_file_names_that_tell_settings_apart() -> None:
    points = [{}, {"a": 1}, {"a": "1 2"}, {"a": "1_2"}, {"a": "x/y"}, {"a": "x" * 300}, {"a": "x" * 299 + "y"}]
    labels = [label(point) for point in points]
    assert len(set(labels)) == len(points)
    assert all("/" not in name and len(name) < 130 for name in labels)
    assert label({"model.interference_weight": 10}) == "model.interference_weight=10"


# ------------------------------------------------------------------------------------------------------- the figures


def row(point: dict[str, Any], seed: int, success: bool, mcc: float = 1.0, **more: Any) -> dict[str, Any]:
    columns = {column: {"mcc": mcc, "steepness": 2.0} for column in ("learned", "pca", "random")}
    truth = {"features": 3, "success": success, "read_off": 3 if success else 4}
    return {"point": point, "seed": seed, "run_dir": f"runs/{seed}", **columns, **truth, "cpu_seconds": 1.0, **more}


def wilson(successes: int, runs: int) -> tuple[float, float]:
    z, rate = 1.959963984540054, successes / runs
    center = (rate + z**2 / (2 * runs)) / (1 + z**2 / runs)
    half = z / (1 + z**2 / runs) * math.sqrt(rate * (1 - rate) / runs + z**2 / (4 * runs**2))
    return center - half, center + half


@pytest.mark.parametrize(("successes", "runs"), [(49, 50), (50, 50), (3, 10), (0, 5)])
def test_a_rate_comes_with_its_wilson_interval(successes: int, runs: int) -> None:
    made = Study("d", ("c",), tuple(row({}, seed, seed < successes) for seed in range(runs)))
    (point,) = made.summary()
    assert point["rate"] == successes / runs
    assert point["wilson_95"] == pytest.approx(wilson(successes, runs), abs=1e-9)
    assert point["read_off"] == successes


def test_a_failure_counts_against_the_rate_and_in_no_mean() -> None:
    failed = {"point": {"a": 1}, "seed": 2, "run_dir": "runs/2", "failure": "expected [bold] features"}
    rows = (row({"a": 1}, 0, True, 0.9), row({"a": 1}, 1, True, 0.8), failed, row({"a": 2}, 0, False, 0.5))
    made = Study("d", ("c",), rows)
    first, second = made.summary()
    assert (first["successes"], first["runs"], first["failures"]) == (2, 3, 1)
    assert first["learned"]["mcc"] == pytest.approx({"mean": 0.85, "std": math.sqrt(0.005), "min": 0.8, "max": 0.9})
    assert second["learned"]["mcc"]["std"] == 0
    shown = text(made)
    assert "0.850 (0.800)" in shown
    assert "runs/2: expected [bold] features" in shown
    assert "<pre" in made._repr_html_()
    assert "0.850" in made._repr_html_()
    json.dumps(made.to_json())


def test_without_truth_every_figure_of_the_scorecard_is_shown_with_its_spread() -> None:
    rows = [row({}, seed, True) for seed in range(2)]
    rows = [
        {name: value for name, value in each.items() if name not in ("features", "success", "read_off")}
        for each in rows
    ]
    for each, purity in zip(rows, (0.4, 0.6), strict=True):
        for column in ("learned", "pca", "random"):
            each[column] = {"steepness": 2.0, "token_purity": purity}
    made = Study("d", ("c",), tuple(rows))
    assert "successes" not in made.summary()[0]
    shown = text(made)
    assert "token purity" in shown
    assert "0.5 ± 0.14" in shown
    assert "matched" not in shown


@pytest.mark.parametrize("values", [[0, 1, 100], [1, 10, 100], ["a", "b"], [[1], None]])
def test_one_key_is_plotted(tmp_path: Path, values: list[Any]) -> None:
    pytest.importorskip("matplotlib")
    made = Study("d", ("c",), tuple(row({"a.b": value}, seed, True) for value in values for seed in range(2)))
    made.plot(tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


def test_several_keys_are_not_plotted(tmp_path: Path) -> None:
    made = Study("d", ("c",), (row({"a": 1, "b": 1}, 0, True), row({"a": 2, "b": 2}, 0, True)))
    with pytest.raises(UserError, match="one key that varies, got a, b"):
        made.plot(tmp_path / "study.png")


def test_features_are_read_off_only_where_the_start_chose(tmp_path: Path) -> None:
    results = RunFolder(tmp_path)
    results.write_json(results.scorecard, {"learned": {"matched": 2}, "features": 3, "random_spread": {"mcc": 0}})
    manifest = {"n_directions": 3, "cpu_seconds": 1, "target_fingerprint": "f"}
    for curvature, read_off in (({"gains": [1, 0.5], "gains_above_a_tenth": 2}, 2), ({"gains": []}, None)):
        results.write_json(results.manifest, {**manifest, "curvature": curvature})
        found = outcome({}, 0, results, None)
        assert (found["success"], found.get("read_off"), "random_spread" in found) == (False, read_off, False)


# ------------------------------------------------------------------------------------------------------- the runs


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[StudyRun]:
    """Runs happen in this process, and are told here in their order."""
    seen: list[StudyRun] = []

    def here(runs: Sequence[StudyRun], jobs: int) -> Iterator[str | None]:
        for each in runs:
            seen.append(each)
            yield module.run_one(each)

    monkeypatch.setattr(module, "_processes", here)
    return seen


def test_settings_of_a_seed_share_a_target_and_only_what_is_missing_is_run(
    tmp_path: Path, begun: list[StudyRun]
) -> None:
    arguments: dict[str, Any] = {"run_dir": str(tmp_path), "overrides": SHORT}
    made = study(XOR, seeds=1, vary={"model.exponent": [2, 3]}, **arguments)
    assert [each.folder.parent.name for each in begun] == ["model.exponent=2", "model.exponent=3"]
    assert len({each["target_fingerprint"] for each in made.rows}) == 1
    assert (tmp_path / "study.png").exists()
    assert not list(tmp_path.rglob("report.html"))
    weights = [load_file(path) for path in tmp_path.glob("model.*/seed_0000/target.safetensors")]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    stored = json.loads((tmp_path / "study.json").read_text())
    assert stored == made.to_json()
    assert all(point["learned"]["mcc"]["mean"] > point["random"]["mcc"]["mean"] for point in stored["summary"])
    assert all(point["oracle"]["mcc"]["mean"] == pytest.approx(1) for point in stored["summary"])

    # More settings: the target is still there. More seeds: another target.
    begun.clear()
    more = study(XOR, seeds=2, vary={"model.exponent": [2]}, **arguments)
    assert [(each.seed, each.point["model.exponent"]) for each in begun] == [(1, 2)]
    assert more.rows[0] == made.rows[0]
    assert more.rows[0]["target_fingerprint"] != more.rows[1]["target_fingerprint"]

    with pytest.raises(UserError, match="differ in overrides"):
        study(XOR, seeds=1, vary={"model.exponent": [2]}, run_dir=str(tmp_path), overrides=SHORT[:1])
    with pytest.raises(UserError, match="seed 7 first"):
        study(XOR, seeds=1, first_seed=7, run_dir=str(tmp_path / "other"), targets_of=str(tmp_path))


def test_targets_of_another_study_are_taken(tmp_path: Path, begun: list[StudyRun]) -> None:
    once = study(XOR, seeds=1, run_dir=str(tmp_path / "a"), overrides=SHORT)
    # Other weights than training gives: they can only come from there.
    (shared,) = (tmp_path / "a" / "targets").rglob("*.safetensors")
    weights, facts = RunFolder(once.rows[0]["run_dir"]).read_target()
    folder = RunFolder(tmp_path / "edited")
    folder.write_target({name: 1.5 * tensor for name, tensor in weights.items()}, facts)
    folder.target.replace(shared)
    again = study(XOR, seeds=1, run_dir=str(tmp_path / "b"), overrides=SHORT, targets_of=str(tmp_path / "a"))
    taken = RunFolder(again.rows[0]["run_dir"]).read_target()[0]
    assert all(taken[name].equal(1.5 * tensor) for name, tensor in weights.items())


def test_a_setting_that_cannot_run_is_told_and_mended(tmp_path: Path, begun: list[StudyRun]) -> None:
    bad = {"vary": [{"model.n_directions": 3}, {"model.n_directions": 0}], "seeds": 1}
    made = study(XOR, run_dir=str(tmp_path), overrides=SHORT, **bad)
    good, failed = made.rows
    assert "failure" not in good
    assert "n_directions" in failed["failure"]
    assert "0" in text(made)
    with pytest.raises(UserError, match=r"all 1 failed, the first with: .*no_such_key"):
        study(XOR, seeds=1, run_dir=str(tmp_path / "b"), overrides=["--model.no_such_key=1"])
    # Nothing but a failure was there: the folder may be another study's.
    study(XOR, seeds=1, run_dir=str(tmp_path / "b"), overrides=SHORT)


def test_overlays_are_taken_in_order(tmp_path: Path, begun: list[StudyRun]) -> None:
    for name, exponent in (("one", 2.5), ("two", 3.5)):
        (tmp_path / f"{name}.yaml").write_text(f"model: {{exponent: {exponent}}}\n")
    one, two = str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")
    made = study([XOR, one], seeds=1, vary={"config": [one, two]}, run_dir=str(tmp_path / "s"), overrides=SHORT)
    manifests = [json.loads((Path(each["run_dir"]) / "manifest.json").read_text()) for each in made.rows]
    assert [manifest["curvature"]["exponent"] for manifest in manifests] == [2.5, 3.5]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seeds": 0}, "seeds of at least 1, got 0"),
        ({"first_seed": -1}, "first_seed of at least 0"),
        ({"jobs": 0}, "jobs of at least 1"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml, which does not exist"),
        ({"config": []}, "got none"),
    ],
)
def test_wrong_input_is_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        study(**{"config": XOR, "run_dir": str(tmp_path / "s"), **options})
    assert not (tmp_path / "s").exists()


def test_without_submitit_or_a_cluster_slurm_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip install 'eigen-lightning\[slurm\]'"):
        study(XOR, seeds=1, run_dir=str(tmp_path), executor="slurm")


@pytest.mark.slow
def test_jobs_go_through_submitit(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    shared = tmp_path / "targets" / "seed_0000.safetensors"
    arguments = (f"--config={XOR}", "--report=false", *SHORT)
    runs = [
        StudyRun({}, 0, tmp_path / "good", arguments, shared),
        StudyRun({}, 0, tmp_path / "bad", (*arguments, "--model.n_directions=0"), shared),
    ]
    parameters = {"timeout_min": 5, "slurm_partition": "ignored here"}
    good, bad = module._submitted(runs, 2, tmp_path, parameters, cluster="local")
    assert good is None
    assert runs[0].finished
    assert bad is not None
    assert "n_directions" in bad
    with pytest.raises(UserError, match="no_such"):
        list(module._submitted(runs, 2, tmp_path, {"no_such": 1}, cluster="local"))


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command_takes_overlays_as_fit_does() -> None:
    assert _named(command, ["a.yaml", "--config", "b.yaml", "--config=c.yaml", "--seeds", "2"]) == [
        "--config=a.yaml",
        "--config+",
        "b.yaml",
        "--config+=c.yaml",
        "--seeds",
        "2",
    ]


@pytest.mark.slow
def test_two_jobs_on_the_command_line_give_what_one_process_gives(
    tmp_path: Path, begun: list[StudyRun], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = study(XOR, seeds=2, first_seed=3, run_dir=str(tmp_path / "here"), overrides=SHORT)
    monkeypatch.undo()
    command_line = ["study", XOR, "--seeds", "2", "--first_seed", "3", "--jobs", "2", "--overrides", json.dumps(SHORT)]
    run([*command_line, "--run_dir", str(tmp_path / "jobs")])
    assert "matched" in capsys.readouterr().out
    there = json.loads((tmp_path / "jobs" / "study.json").read_text())["rows"]
    for mine, other in zip(here.rows, there, strict=True):
        assert mine["learned"] == other["learned"]
        assert mine["target_fingerprint"] == other["target_fingerprint"]
