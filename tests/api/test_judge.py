"""A finished run judged anew: on its own samples, and on others."""

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import eigen_lightning as el
from eigen_lightning.learning.callbacks import Scorecard
from eigen_lightning.run.errors import UserError
from tests.benchmarks.digits import twins


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> el.Run:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("judged") / "run"
    return el.fit(el.TMSTarget(), el.TMS(), n_directions=5, run_dir=folder, max_epochs=1, report=False, quiet=True)


def test_on_its_own_samples_a_run_scores_what_its_scorecard_says(run: el.Run) -> None:
    again = el.load(run.folder.path).judge(el.TMS())
    for column in ("learned", "random", "pca", "oracle"):
        assert again[column] == pytest.approx(run.scorecard[column], rel=1e-4, abs=1e-6)
    assert again["assignment"] == run.scorecard["assignment"]
    assert again["samples"] == run.scorecard["samples"]
    assert "<table>" in again._repr_html_()


def test_on_other_samples_it_scores_otherwise_and_the_truth_stays(run: el.Run) -> None:
    denser = run.judge(el.TMS(probability=0.5), random_draws=2)
    assert denser["random_draws"] == 2
    assert denser["learned"]["mcc"] == pytest.approx(run.scorecard["learned"]["mcc"], rel=1e-5)
    assert denser["learned"]["normalized_steepness"] != pytest.approx(
        run.scorecard["learned"]["normalized_steepness"], rel=0.05
    )


def test_samples_and_numbers_that_do_not_fit_are_refused(run: el.Run) -> None:
    with pytest.raises(UserError, match=r"\[batch, 5\]"):
        run.judge(el.TMS(features=4))
    with pytest.raises(UserError, match="random_draws of at least 1, got 0"):
        run.judge(el.TMS(), random_draws=0)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def test_a_network_of_ones_own_is_judged_beside_its_random_copy(tmp_path: Path) -> None:
    network, inputs = small_network(), torch.randn(300, 4)
    before = [parameter.clone() for parameter in network.parameters()]
    run = el.fit(
        network, inputs, divergence="kl", n_directions=2, run_dir=tmp_path, max_epochs=1, report=False, quiet=True,
        callbacks=[Scorecard(random_network=True)],
    )  # fmt: skip
    assert run.scorecard["random_network"]["normalized_steepness"] > 0
    assert all(map(torch.equal, network.parameters(), before))


def test_a_network_that_cannot_be_copied_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    network = small_network()
    network.lock = threading.Lock()
    with pytest.raises(UserError, match=r"can be copied, .*leave random_network out"):
        el.fit(
            network, torch.randn(300, 4), n_directions=2, run_dir=tmp_path, max_epochs=1,
            report=False, quiet=True, callbacks=[Scorecard(random_network=True)],
        )  # fmt: skip
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.slow
def test_directions_of_a_trained_classifier_stay_apart_and_those_of_an_untrained_one_do_not(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    trained, untrained = (twins(7, kind, tmp_path / str(kind)) for kind in (True, False))
    assert trained["learned"] <= 2 < 4 <= min(untrained["learned"], trained["random_network"])


class Known(el.Network):
    """A network of one's own whose features are known and have no names."""

    def feature_inputs(self, values: int) -> list[torch.Tensor]:
        return [
            strength * torch.eye(4)[index : index + 1] for index in range(4) for strength in [torch.ones(values, 1)]
        ]


def test_features_of_a_network_of_ones_own_need_no_names(tmp_path: Path) -> None:
    run = el.fit(
        Known(small_network(), ["0.*"]), torch.randn(300, 4), n_directions=3, run_dir=tmp_path, max_epochs=1,
        report=False, quiet=True,
    )  # fmt: skip
    assert [each["feature"] for each in run.scorecard["assignment"]] == [f"feature {index}" for index in range(4)]
    assert 0 < run.scorecard["learned"]["mcc"] <= 0.75
