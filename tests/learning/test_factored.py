"""Runs whose directions are held as factors, from the start to the folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import eigen_lightning as el
from eigen_lightning.curvature import TraceNormalization, factored
from eigen_lightning.directions import Start
from eigen_lightning.directions.factored_ascent import Factored
from eigen_lightning.learning import start_stage
from eigen_lightning.run import factored_rows
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from tests.kinds import Kinds
from tests.parallel.test_processes import BOUND
from tests.processes import CommandProcess
from tests.resume import runs
from tests.toy_runs import fit

RECIPE: dict[str, Any] = {
    "objective": "coverage",
    "normalization": TraceNormalization(power=2 / 3),
    "start": Start(steps=25, samples=256),
}


def test_at_full_rank_factors_find_what_dense_rows_find(tmp_path: Path) -> None:
    """W is 2 x 5: at rank 2 nothing is left out, so that both learn the same five features."""
    dense = fit(tmp_path / "dense", samples=1024, **RECIPE)
    held = fit(tmp_path / "factored", directions_held=Factored(rank=2, probes=64), samples=1024, **RECIPE)
    cosine = (dense.directions.double() @ held.directions.double().T).abs()
    assert cosine.amax(1).min() > 0.99
    assert sorted(cosine.argmax(1).tolist()) == list(range(5))
    torch.testing.assert_close(held.directions.norm(dim=1), torch.ones(5))


def test_directions_are_chosen_on_four_times_the_samples_that_rows_climb_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[list[int]] = []
    chosen = start_stage.choose_factored

    def counted(space: Any, samples: Any, more: Any, *rest: Any) -> Any:
        counts.append([sum(len(inputs) for inputs, _ in each.passes()) for each in (samples, more)])
        return chosen(space, samples, more, *rest)

    monkeypatch.setattr(start_stage, "choose_factored", counted)
    fit(tmp_path, directions_held=Factored(rank=1), samples=2048, **{**RECIPE, "start": Start(steps=2, samples=256)})
    assert counts == [[256, 1024]]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"objective": "steepness"}, "model.objective steepness"),
        ({"interference_weight": 2.0}, "model.interference_weight 2.0"),
        ({"curvature": "nested"}, "model.curvature nested"),
        ({"start": None, "objective": "coverage"}, "model.start null"),
    ],
)
def test_settings_that_need_dense_rows_are_refused(settings: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        fit(tmp_path, directions_held=Factored(), **{**RECIPE, **settings})


def config(kinds: Kinds) -> dict[str, Any]:
    config = kinds.config("file")
    config["model"]["target"]["init_args"]["parameters"] = ["blocks.*.attn.*", "blocks.*.mlp.*"]
    config["model"]["directions"] = {"rank": 1, "probes": 8}
    config["trainer"]["callbacks"] = [*config["trainer"]["callbacks"], {"class_path": "Scorecard"}]
    return config


@pytest.fixture(scope="module")
def whole(kinds: Kinds) -> RunFolder:
    """A run over all attention and MLP matrices of a tiny language model."""
    folder = kinds.fresh("factored-whole")
    CommandProcess(runs.arguments(config(kinds), folder), folder.with_suffix(".log")).succeed()
    return RunFolder(folder)


def test_a_whole_model_ends_in_a_folder_that_reads_and_writes(whole: RunFolder) -> None:
    run = el.load(whole.path)
    writes, reads = run.writes(1), run.reads(1)
    assert len(writes) == 12
    for name, part in run.directions.items():
        if part.ndim == 3:
            torch.testing.assert_close(writes[name] @ reads[name].T, part[1], rtol=1e-4, atol=1e-6)
            assert torch.linalg.matrix_rank(part[1], rtol=1e-4) <= 1
    torch.testing.assert_close(run.U.norm(dim=1), torch.ones(3))
    assert run.scorecard["learned"]["normalized_steepness"] > run.scorecard["random"]["normalized_steepness"]
    assert whole.report.exists()


@pytest.fixture
def no_dense_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if K P numbers were too many from the first; forked processes inherit it."""
    monkeypatch.setattr(factored, "DENSE_UP_TO", 100)
    monkeypatch.setattr(factored_rows, "ASKED_UP_TO", 100)


def test_where_dense_rows_are_too_many_a_run_ends_in_factors_and_is_asked_further(
    whole: RunFolder, kinds: Kinds, no_dense_rows: None, tmp_path: Path
) -> None:
    bare = config(kinds)
    bare["trainer"]["callbacks"] = [{"class_path": name} for name in ("Interference", "TopExamples", "Health")]
    folder = kinds.fresh("factored-without-dense-rows")
    CommandProcess(runs.arguments(bare, folder), folder.with_suffix(".log")).succeed()
    run, same = el.load(folder), el.load(whole.path)
    with safe_open(run.folder.directions, framework="pt") as file:
        assert "U" not in file.keys()  # noqa: SIM118 - no mapping
    assert isinstance(run.rows, factored_rows.FactoredRows)
    with pytest.raises(UserError, match="numbers in U for run"):
        _ = run.U
    # The same run, but for what is written.
    torch.testing.assert_close(run.rows[:], same.U, rtol=1e-5, atol=1e-7)
    inputs = torch.randint(61, (3, 7))
    torch.testing.assert_close(run.d2D(inputs), same.d2D(inputs), rtol=1e-4, atol=1e-9)
    assert run.structure(1).by_parameter.keys() == same.structure(1).by_parameter.keys()
    assert run.vocabulary(1)[0] == same.vocabulary(1)[0]
    assert run.edit(1, 0.1).save_pretrained(tmp_path / "edited").exists()
    for name in ("report", "vocabulary", "circuit", "interventions", "cards", "interference"):
        assert getattr(run.folder, name).exists(), name
    assert len(el.load(run.save_pretrained(tmp_path / "shared"), model=kinds.folder / "model")) == 3
    page = run.folder.report.read_text(encoding="utf-8")
    assert "Where the directions lie" in page
    matrices = [np.load(each.interference) for each in (run.folder, whole)]
    np.testing.assert_allclose(*matrices, rtol=1e-4, atol=1e-9)


def test_a_scorecard_of_too_many_dense_rows_is_refused_before_anything_is_learned(
    kinds: Kinds, no_dense_rows: None, tmp_path: Path
) -> None:
    process = CommandProcess(runs.arguments(config(kinds), tmp_path / "run"), tmp_path / "log")
    assert process.wait() == [2]
    assert "numbers in U for the callback Scorecard" in " ".join(process.log.read_text().split())


@pytest.mark.slow
def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(kinds: Kinds) -> None:
    bare = config(kinds)
    bare["trainer"]["callbacks"] = []
    folders = []
    # Not from one epoch, in which no sample returns and none is held.
    for name, epochs in (("whole", [3]), ("stopped", [2, 3])):
        folder = kinds.fresh(f"factored-{name}-3")
        arguments = runs.arguments(bare, folder, "--ckpt_path", "last", "--report=false")
        for many in epochs:
            CommandProcess([*arguments, f"--trainer.max_epochs={many}"], folder.with_suffix(".log")).succeed()
        folders.append(RunFolder(folder))
    assert torch.equal(folders[0].read_directions()[0], folders[1].read_directions()[0])


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(whole: RunFolder, kinds: Kinds) -> None:
    folder = kinds.fresh("factored-two")
    CommandProcess(runs.arguments(config(kinds), folder), folder.with_suffix(".log"), 2).succeed()
    one, two = (RunFolder(path).read_directions()[0] for path in (whole.path, folder))
    assert (one - two).abs().max() <= BOUND


def test_dense_runs_hold_no_factors(kinds: Kinds) -> None:
    with pytest.raises(UserError, match="dense rows"):
        el.load(kinds.finished("tms")).reads(0)
