"""Planted failures are found while training, named, and where that is possible mended."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import Adam

from eigen_lightning.analysis.health import Health as Found
from eigen_lightning.directions import PolarAscent
from eigen_lightning.learning.callbacks import Health
from eigen_lightning.learning.callbacks.health import start_anew
from eigen_lightning.run.errors import UserError
from tests.networks import unit_rows
from tests.toy_runs import fit


class Plant(Callback):
    """Puts wrong rows into U after the first epoch's training; keeps what was found after each epoch."""

    def __init__(self, health: Health, rows: dict[int, torch.Tensor]) -> None:
        self.health, self.rows = health, rows
        self.found: list[Found] = []

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 0:
            for row, value in self.rows.items():
                pl_module.U.data[row] = value(pl_module.U.data) if callable(value) else value

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.found.append(self.health.found)


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("eigen_lightning").propagate = True
    caplog.set_level(logging.INFO, "eigen_lightning")
    return caplog


def test_a_duplicate_is_named_and_mended(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    health = Health(reseed=True)
    plant = Plant(health, {3: lambda U: -U[1]})
    module = fit(tmp_path, health, plant, epochs=3)
    assert plant.found[0].duplicates == [(1, 3)]
    assert "duplicates: 3 of 1" in heard.text
    assert "started anew after epoch 0" in heard.text
    assert plant.found[-1]
    gram = module.U.detach() @ module.U.detach().T
    torch.testing.assert_close(gram, torch.eye(5), atol=1e-5, rtol=0)


def test_a_dead_direction_is_named(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    # To lower the bias of every feature at once does far less on any sample than the feature's own direction.
    flat = torch.cat([torch.zeros(10), torch.ones(5) / math.sqrt(5)])
    health = Health()
    plant = Plant(health, {2: 1e-3 * flat})
    fit(tmp_path, health, plant)
    assert plant.found[0].dead == [2]
    assert "dead (lead on no sample): 2" in heard.text


def test_a_collapsed_direction_is_named(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    health = Health()
    plant = Plant(health, {4: lambda U: (U[0] + U[1] + U[2] + U[3]) / 2})
    fit(tmp_path, health, plant)
    assert len(plant.found[0].collapsed) == 1
    assert "collapsed (in the span of the others)" in heard.text


def test_a_number_that_is_not_finite_stops_the_run_and_is_located(tmp_path: Path) -> None:
    health = Health()
    with pytest.raises(UserError, match=r"direction 3 is not finite on sample \d+, position 0, rank 0"):
        fit(tmp_path, health, Plant(health, {3: torch.tensor(torch.nan)}))


def test_started_anew_rows_are_orthogonal_to_those_kept() -> None:
    U = torch.nn.Parameter(torch.linalg.qr(unit_rows(8, 8))[0][:5])
    kept = U.detach()[[0, 2, 4]].clone()
    start_anew(U, [1, 3], [], seed=1)
    assert torch.equal(U.detach()[[0, 2, 4]], kept)
    torch.testing.assert_close(U.detach() @ U.detach().T, torch.eye(5, dtype=torch.float64))
    again = torch.nn.Parameter(U.detach().clone())
    start_anew(again, [1, 3], [], seed=1)
    assert torch.equal(again, U)


def test_the_optimizers_forget_rows_started_anew() -> None:
    U = torch.nn.Parameter(torch.linalg.qr(unit_rows(8, 8))[0][:4])
    adam, polar = Adam([U]), PolarAscent([U])
    U.grad = torch.randn_like(U)
    adam.step()
    polar.step()
    before = {name: value.clone() for name, value in adam.state[U].items()}
    start_anew(U, [2], [adam, polar], seed=0)
    for name in ("exp_avg", "exp_avg_sq"):
        assert adam.state[U][name][2].eq(0).all()
        assert torch.equal(adam.state[U][name][[0, 1, 3]], before[name][[0, 1, 3]])
    average = polar.state[U]["average"][2]
    assert float(torch.cosine_similarity(average, U.detach()[2], dim=0)) == pytest.approx(1)
