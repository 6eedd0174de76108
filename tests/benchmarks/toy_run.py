"""A whole TMS run: as-published steps with nested products against ours, Lightning's overhead included."""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from eigen_lightning.data import TMS
from eigen_lightning.learning import SparseEigendecomposition, TraceNormalization
from eigen_lightning.targets import TMSTarget
from tests.benchmarks.timing import once

BATCH = 256
PARTS = 256
REPEATS = 5


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
    """Milliseconds a step of each variant: the median over interleaved repeats of the difference of a long and a short
    run, so that start-up does not enter."""
    published = {
        "stage1": lambda params: torch.optim.Adam(params, lr=0.01),
        "stage2": None,
        "interference_form": "norm",
        "stage2_curvature": "stale",
        "normalization": None,
        "starts": None,
    }
    polar = {"normalization": TraceNormalization(power=0.5), "starts": None}

    def module(**kwargs: Any) -> SparseEigendecomposition:
        return SparseEigendecomposition(TMSTarget(), 5, **kwargs)

    variants: dict[str, tuple[int, Callable[[], LightningModule]]] = {
        "as published, nested": (1, lambda: module(curvature="nested", **published)),
        "as published, gauss_newton": (1, lambda: module(**published)),
        "polar": (1, lambda: module(**polar)),
        f"polar, {PARTS} steps a batch": (PARTS, lambda: module(**polar, steps_per_batch=PARTS)),
        "Lightning alone": (1, Idle),
    }
    taken: dict[str, list[float]] = {label: [] for label in variants}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(REPEATS):
            for label, (parts, make) in variants.items():
                # What is cheap is measured on more steps, or the difference would drown.
                batches = steps if parts == 1 else 64 * steps // parts
                short, long = (timed(Path(name), make(), parts, count) for count in (batches // 10 + 1, batches))
                taken[label].append((long - short) / (parts * (batches - batches // 10 - 1)))
    seconds = {label: statistics.median(each) for label, each in taken.items()}
    nested = seconds["as published, nested"]
    return {
        "ms a step": {label: 1e3 * each for label, each in seconds.items()},
        "times faster than nested": {label: nested / each for label, each in seconds.items()},
    }


def timed(folder: Path, module: LightningModule, parts: int, batches: int) -> float:
    """CPU seconds of ``fit`` on so many batches of so many steps each."""
    data = TMS(batch_size=BATCH * parts, samples_per_epoch=BATCH * parts * batches)
    trainer = trainer_in(folder, batches)
    return once(lambda: trainer.fit(module, datamodule=data))
