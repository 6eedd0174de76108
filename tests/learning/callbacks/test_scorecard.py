"""The scorecard of a whole run."""

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from eigen_lightning.analysis.figures import table
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.learning.callbacks import Scorecard
from eigen_lightning.run.errors import UserError
from tests.toy_runs import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[SparseEigendecomposition, Scorecard, dict]:
    folder = tmp_path_factory.mktemp("scorecard")
    torch.set_num_threads(1)
    callback = Scorecard(random_draws=3, train_samples=1024)
    module = fit(folder, callback)
    return module, callback, json.loads((folder / "scorecard.json").read_text())


def test_learned_directions_are_the_features_and_oracle_scores_one(run: tuple) -> None:
    card = run[2]
    assert card["learned"]["matched"] == card["features"] == 5
    assert card["learned"]["mcc"] > 0.98
    for name in ("mcc", "uniqueness", "mmcs"):
        assert card["oracle"][name] == pytest.approx(1)
    assert card["oracle"]["matched"] == 5
    assert card["learned"]["selectivity"] > 0.95 * card["oracle"]["selectivity"]


def test_controls_stay_in_their_bands(run: tuple) -> None:
    card = run[2]
    assert 0.25 < card["random"]["mcc"] < 0.5
    assert card["random"]["matched"] == 0
    assert 0 < card["random_spread"]["mcc"] < 0.2
    assert card["random"]["steepness"] < 0.3 * card["learned"]["steepness"]
    assert card["pca"]["mcc"] < 0.9
    assert card["pca"]["steepness"] < card["learned"]["steepness"]


def test_no_directions_explain_more_than_the_principal_ones(run: tuple) -> None:
    card = run[2]
    assert card["pca"]["explained_curvature"] == pytest.approx(1)
    assert card["random"]["explained_curvature"] < 0.7
    assert card["random"]["explained_curvature"] < card["learned"]["explained_curvature"] < 1


def test_directions_that_span_everything_explain_everything(tmp_path: Path) -> None:
    """What counts is the space that directions span, however unevenly they do: fifteen random ones in P = 15."""
    callback = Scorecard(random_draws=1, train_samples=512)
    module = fit(tmp_path, callback, directions=15, samples=512)
    card = callback.judge(module.trainer, module, module.U.detach())
    for name in ("learned", "random", "pca"):
        assert card[name]["explained_curvature"] == pytest.approx(1, abs=1e-4)


def test_orthonormal_directions_do_not_interfere(run: tuple) -> None:
    card = run[2]
    assert card["learned"]["interference"] < 1e-9 * card["learned"]["steepness"]
    assert card["random"]["interference"] > 1e-4 * card["random"]["steepness"]


def test_permuted_and_flipped_directions_score_the_same(run: tuple) -> None:
    module, callback, card = run
    before = module.U.detach().clone()
    module.U.data = (before * torch.tensor([1, -1, 1, -1, -1.0])[:, None])[torch.tensor([3, 1, 4, 0, 2])]
    again = callback.judge(module.trainer, module, module.U.detach())
    module.U.data = before
    assert again["learned"] == pytest.approx(card["learned"], rel=1e-4, abs=1e-9)
    assert again["random"] == pytest.approx(card["random"])


def test_table_has_every_control_beside_every_figure(run: tuple) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(run[2]))
    text = console.export_text()
    truth = run[2]["truth"]
    held = f"hold {truth['eigenshare']:.2f}"
    for word in ("learned", "random", "pca", "oracle", "5 of 5", "±", "explained curvature", held):
        assert word in text


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="random_draws of at least 1, got 0"):
        Scorecard(random_draws=0)


def test_a_random_network_is_another_network_with_a_truth_of_its_own(tmp_path: Path) -> None:
    fit(tmp_path, Scorecard(random_draws=1, train_samples=1024, random_network=True))
    card = json.loads((tmp_path / "scorecard.json").read_text())
    control = card["random_network"]
    assert 0 < control["normalized_steepness_low"] <= control["normalized_steepness"]
    assert control["normalized_steepness"] != card["learned"]["normalized_steepness"]
    assert 0 < control["mcc"] <= 1
    assert control["mcc"] != card["learned"]["mcc"]
    console = Console(file=io.StringIO(), width=200)
    console.print(table(card))
    assert "random_network" in console.file.getvalue()
