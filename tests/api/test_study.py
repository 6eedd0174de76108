"""Seeds times a grid: what is run, what is shared, what is kept, how often the truth was found."""

import io
import itertools
import json
import math
import shutil
import subprocess
import sys
import time
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
SHORT = [
    "--trainer.max_epochs=1",
    "--data.samples_per_epoch=128",
    "--model.start.steps=10",
    '--trainer.callbacks=[{"class_path": "Scorecard"}]',
]


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


class InThisProcess:
    """Does runs here, or pretends to, and tells which."""

    def __init__(self, pretended: str | None = None) -> None:
        self.pretended = pretended
        self.begun: list[StudyRun] = []

    def __call__(self, runs: Sequence[StudyRun], jobs: int) -> Iterator[str | None]:
        for each in runs:
            self.begun.append(each)
            yield self.pretended or module.run_one(each)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> InThisProcess:
    processes = InThisProcess()
    monkeypatch.setattr(module, "_processes", processes)
    return processes


@pytest.fixture(scope="module")
def two_settings(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = str(tmp_path_factory.mktemp("study") / "made")
    with pytest.MonkeyPatch.context() as patch:
        processes = InThisProcess()
        patch.setattr(module, "_processes", processes)
        made = study(XOR, seeds=1, vary={"model.exponent": [2, 3]}, run_dir=folder, overrides=SHORT)
    assert [each.folder.parent.name for each in processes.begun] == ["model.exponent=2", "model.exponent=3"]
    return made


def test_settings_of_a_seed_share_its_target(two_settings: Study) -> None:
    assert len({each["target_fingerprint"] for each in two_settings.rows}) == 1
    weights = [load_file(Path(each["run_dir"]) / "target.safetensors") for each in two_settings.rows]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_results_are_written_and_stand_beside_their_controls(two_settings: Study) -> None:
    folder = Path(two_settings.run_dir)
    stored = json.loads((folder / "study.json").read_text())
    assert stored == two_settings.to_json()
    assert (folder / "study.png").exists()
    assert not list(folder.rglob("report.html"))
    assert all(point["learned"]["mcc"]["mean"] > point["random"]["mcc"]["mean"] for point in stored["summary"])
    assert all(point["oracle"]["mcc"]["mean"] == pytest.approx(1) for point in stored["summary"])


def test_only_what_is_missing_is_run(two_settings: Study, here: InThisProcess, tmp_path: Path) -> None:
    folder = shutil.copytree(two_settings.run_dir, tmp_path / "copy")
    more = study(XOR, seeds=2, vary={"model.exponent": [2]}, run_dir=str(folder), overrides=SHORT)
    assert [(each.seed, each.point) for each in here.begun] == [(1, {"model.exponent": 2})]
    assert more.rows[0] == two_settings.rows[0] | {"run_dir": more.rows[0]["run_dir"]}
    assert more.rows[0]["target_fingerprint"] != more.rows[1]["target_fingerprint"]
    # What was cut off is run again; the shared target is still there.
    here.begun.clear()
    manifest = Path(more.rows[1]["run_dir"]) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete"', '"interrupted"'))
    here.pretended = "cut off again"
    again = study(XOR, seeds=2, vary={"model.exponent": [2]}, run_dir=str(folder), overrides=SHORT)
    assert [(each.seed, each.shared_target.exists()) for each in here.begun] == [(1, True)]
    assert again.rows[1]["failure"] == "cut off again"


def test_a_folder_of_another_study_is_refused(two_settings: Study) -> None:
    for options, differing in (
        ({"overrides": SHORT[:1]}, "overrides"),
        ({"overrides": SHORT, "config": [XOR, XOR]}, "config"),
        ({"overrides": SHORT, "targets_of": two_settings.run_dir}, "targets_of"),
    ):
        with pytest.raises(UserError, match=f"differ in {differing}:"):
            study(**{"config": XOR, "seeds": 1, "run_dir": two_settings.run_dir, **options})


def test_targets_of_another_study_are_taken(two_settings: Study, here: InThisProcess, tmp_path: Path) -> None:
    # Other weights than training gives: they can only come from there.
    weights, facts = RunFolder(two_settings.rows[0]["run_dir"]).read_target()
    given = RunFolder(tmp_path / "given")
    given.write_target({name: 1.5 * tensor for name, tensor in weights.items()}, facts)
    shared = tmp_path / "given" / "targets" / "as_configured" / "seed_0000.safetensors"
    shared.parent.mkdir(parents=True)
    given.target.replace(shared)
    options: dict[str, Any] = {"run_dir": str(tmp_path / "taking"), "overrides": SHORT, "targets_of": str(given.path)}
    made = study(XOR, seeds=1, **options)
    taken = RunFolder(made.rows[0]["run_dir"]).read_target()[0]
    assert all(taken[name].equal(1.5 * tensor) for name, tensor in weights.items())
    with pytest.raises(UserError, match="seed 1 first"):
        study(XOR, seeds=2, **options)


def test_what_cannot_run_is_told(here: InThisProcess, tmp_path: Path) -> None:
    vary = [{"model.n_directions": 3}, {"model.n_directions": 0}]
    made = study(XOR, seeds=1, vary=vary, run_dir=str(tmp_path), overrides=SHORT)
    assert "failure" not in made.rows[0]
    assert "n_directions" in made.rows[1]["failure"]
    assert made.summary()[1]["failures"] == 1
    assert "model.n_directions=0/seed_0000: expected" in " ".join(text(made).split())


def test_a_folder_that_holds_failures_alone_may_be_another_studys(here: InThisProcess, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"all 1 failed, the first with: .*no_such_key"):
        study(XOR, seeds=1, run_dir=str(tmp_path), overrides=["--model.no_such_key=1"])
    stale = tmp_path / "targets" / "as_configured" / "seed_0000.safetensors"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another configuration")
    here.pretended = "pretended"
    with pytest.raises(UserError, match="pretended"):
        study(XOR, seeds=1, run_dir=str(tmp_path), overrides=SHORT)
    assert not stale.exists()


def test_runs_get_overlays_in_order_before_what_overrides_them(here: InThisProcess, tmp_path: Path) -> None:
    here.pretended = "pretended"
    vary = [{"model.exponent": 1e-5, "config": "two.yaml", "model.objective": "auto", "model.start": None}]
    with pytest.raises(UserError, match="pretended"):
        study([XOR, XOR], seeds=1, first_seed=7, vary=vary, run_dir=str(tmp_path), overrides=["--a=1"])
    assert here.begun[0].arguments == (
        f"--config={XOR}",
        f"--config={XOR}",
        "--config=two.yaml",
        "--report=false",
        "--a=1",
        "--seed_everything=7",
        "--model.exponent=1e-05",
        "--model.objective=auto",
        "--model.start=null",
    )


def test_targets_are_shared_by_what_trains_them(here: InThisProcess, tmp_path: Path) -> None:
    here.pretended = "pretended"
    vary = {"model.target.hidden": [2, 3], "model.exponent": [2, 3]}
    with pytest.raises(UserError, match="pretended"):
        study(XOR, seeds=2, vary=vary, run_dir=str(tmp_path))
    shared = [(each.point["model.target.hidden"], each.seed, each.shared_target) for each in here.begun]
    assert len(set(shared)) == len({path for *_, path in shared}) == 4
    # Each is trained before any run that waits for it.
    assert len({path for *_, path in shared[:4]}) == 4


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
    tmp_path: Path, here: InThisProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one_process = study(XOR, seeds=2, first_seed=3, run_dir=str(tmp_path / "here"), overrides=SHORT)
    monkeypatch.undo()
    command_line = ["study", XOR, "--seeds", "2", "--first_seed", "3", "--jobs", "2", "--overrides", json.dumps(SHORT)]
    run([*command_line, "--run_dir", str(tmp_path / "jobs")])
    assert "matched" in capsys.readouterr().out
    there = json.loads((tmp_path / "jobs" / "study.json").read_text())["rows"]
    for mine, other in zip(one_process.rows, there, strict=True):
        assert mine["learned"] == other["learned"]
        assert mine["target_fingerprint"] == other["target_fingerprint"]


POOL_OF_ONE = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from eigen_lightning.api.study import end_with_parent

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


def test_workers_end_with_a_study_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(POOL_OF_ONE)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = Path(f"/proc/{int(parent.stdout.readline())}")
        assert worker.exists()
        parent.kill()
    end = time.monotonic() + 60
    # Where nobody waits for an orphan it stays as a zombie.
    while worker.exists() and "\nState:\tZ" not in (worker / "status").read_text():
        assert time.monotonic() < end, "the worker goes on"
        time.sleep(0.05)
