"""A whole TMS run: as-published steps with nested products against ours, Lightning's overhead included."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from eigen_lightning.data import TMS
from eigen_lightning.decomposition import SparseEigendecomposition, TraceNormalization
from eigen_lightning.targets import TMSTarget
from tests.benchmarks.timing import once

BATCH = 256


def trainer_in(folder: Path, steps: int) -> Trainer:
    """A trainer that does nothing but these steps."""
    return Trainer(
        default_root_dir=folder,
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )


class Idle(LightningModule):
    """A manual optimization step that computes nothing: what Lightning itself costs."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(5, 15))

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        self.weight.grad = torch.zeros_like(self.weight)
        self.optimizers().step()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=0.0)


def whole_run(steps: int = 300) -> dict[str, Any]:
    """Milliseconds a step of each variant, by the difference of a long and a short run."""
    published = {
        "stage1": lambda params: torch.optim.Adam(params, lr=0.01),
        "stage2": None,
        "interference_form": "norm",
        "stage2_curvature": "stale",
        "normalization": None,
        "starts": None,
    }
    variants: dict[str, Any] = {
        "as published, nested": lambda: module(curvature="nested", **published),
        "as published, gauss_newton": lambda: module(**published),
        "polar": lambda: module(normalization=TraceNormalization(power=0.5), starts=None),
        "Lightning alone": Idle,
    }
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def module(**kwargs: Any) -> SparseEigendecomposition:
            return SparseEigendecomposition(TMSTarget(), 5, **kwargs)

        for label, make in variants.items():
            taken = []
            for count in (steps // 10, steps, steps // 10, steps):
                data = TMS(batch_size=BATCH, samples_per_epoch=BATCH * count)
                trainer = trainer_in(folder, count)
                taken.append(once(lambda t=trainer, m=make(), d=data: t.fit(m, datamodule=d)))
            seconds[label] = (taken[3] - taken[2]) / (steps - steps // 10)
    nested = seconds["as published, nested"]
    return {
        "ms a step": {label: 1e3 * each for label, each in seconds.items()},
        "times faster than nested": {label: nested / each for label, each in seconds.items()},
    }
