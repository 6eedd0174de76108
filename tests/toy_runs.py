"""Decompositions of a network whose weights are written down instead of trained: a second each."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from eigen_lightning.curvature import TraceNormalization
from eigen_lightning.data import TMS
from eigen_lightning.directions import Start
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets.toys.tms import TMSNetwork, TMSTarget
from eigen_lightning.targets.toys.toy import ToyTarget


class Scaled(nn.Module):
    """A network whose outputs are multiplied."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, inputs: Tensor) -> Tensor:
        return self.factor * self.network(inputs)


class Pentagon(TMSTarget):
    """Five features in the plane, 72 degrees apart, as TMS training arranges them; outputs times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(features=5, hidden=2)
        self.factor = factor

    def prepare(self, run: Any, seed: int) -> None:
        pass

    def network_with_weights(self, run: Any) -> nn.Module:
        network = TMSNetwork(5, 2)
        angles = torch.arange(5) * (2 * math.pi / 5)
        weights = {"W": 1.15 * torch.stack([angles.cos(), angles.sin()]), "b": torch.full((5,), -0.35)}
        network.load_state_dict(weights)
        return Scaled(network, self.factor)


def trained(target: ToyTarget, folder: Path, seed: int = 0) -> ToyTarget:
    """A toy target trained and loaded, its weights in the folder."""
    run = RunFolder(folder)
    target.prepare(run, seed)
    target.load(run)
    return target


def bare_trainer(folder: Path, epochs: int = 1, *callbacks: Callback, logger: Any = False, **options: Any) -> Trainer:
    """A trainer that trains, and writes nothing."""
    return Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )


def fit(
    folder: Path,
    *callbacks: Callback,
    factor: float = 1.0,
    directions: Any = 5,
    epochs: int = 1,
    samples: int = 2048,
    logger: Any = False,
    directions_held: Any = None,
    **model: Any,
) -> SparseEigendecomposition:
    """Decompose the pentagon on samples with a feature present once in ten; the module returned has its trainer."""
    settings: dict[str, Any] = {
        "normalization": TraceNormalization(power=0.5),
        "objective": "steepness",
        "start": Start(steps=15, samples=1024),
    }
    module = SparseEigendecomposition(Pentagon(factor), directions, directions=directions_held, **{**settings, **model})
    data = TMS(features=5, probability=0.1, batch_size=256, samples_per_epoch=samples, heldout_samples=1024, seed=0)
    bare_trainer(folder, epochs, *callbacks, logger=logger).fit(module, data)
    return module
