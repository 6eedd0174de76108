"""What identifies a run and what it found: manifest.json and directions.safetensors."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from eigen_lightning.learning.callbacks.evaluation import run_folder_of
from eigen_lightning.run.metrics_csv import MetricsCSV
from eigen_lightning.run.seeding import run_seed

PACKAGES = (
    "eigen-lightning",
    "torch",
    "lightning",
    "torchmetrics",
    "transformer_lens",
    "transformers",
    "datasets",
    "tensorboard",
    "numpy",
    "safetensors",
)

ROOT, PACKAGE = Path(__file__).resolve().parents[3], __name__.partition(".")[0]


def git_revision(root: Path = ROOT) -> str | None:
    """The revision of the package's own checkout, with ``-dirty`` where files differ; None where it is in none.

    A virtual environment may lie in another project's checkout, whose revision says nothing about this package.

    Args:
        root: the folder that holds the package.
    """
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    # A hook's git hands its repository on.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def answer(*command: str) -> str:
        done = subprocess.run(
            [git, *command], cwd=root, env=environment, capture_output=True, encoding="utf-8", check=False
        )
        return done.stdout.strip()

    if not answer("ls-files", PACKAGE):
        return None
    return answer("describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*") or None


def installed_version(name: str) -> str | None:
    """A package's version; None where it is imported from a folder without being installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


class RunRecord(Callback):
    """Writes ``manifest.json`` at the first batch and at the end, and ``directions.safetensors`` after every epoch."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._since, self._cpu_since = time.monotonic(), time.process_time()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.resume(trainer.global_step)
        self._begun = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Not before: up to here a run may be refused, and what the folder holds is then still another's.
        if not self._begun:
            self._begun = True
            self._write_manifest(trainer, pl_module, "running")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_directions(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_directions(trainer, pl_module)
        self._write_manifest(trainer, pl_module, "interrupted" if trainer.interrupted else "complete")

    def _write_directions(self, trainer: Trainer, module: Any) -> None:
        directions, factors = module.directions, {}
        if module.coordinates is not None:
            factors = module.coordinates.named(module.U.detach())
        if trainer.is_global_zero:
            run_folder_of(trainer).write_directions(directions, module.target.space.shape_of, factors)

    def _write_manifest(self, trainer: Trainer, module: Any, status: str) -> None:
        if not trainer.is_global_zero:
            return
        run = run_folder_of(trainer)
        data = trainer.datamodule  # type: ignore[attr-defined]
        manifest = {
            "status": status,
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "seed": run_seed(),
            "updated": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._since, 3),
            "cpu_seconds": round(time.process_time() - self._cpu_since, 3),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "n_directions": module.n_directions,
            "n_parameters": module.target.space.size,
            "parameters": dict(zip(module.target.space.names, module.target.space.shapes, strict=True)),
            "heads": module.target.heads(),
            "target": {**module.target.config(), **module.target.facts(run), "recipe": module.target.recipe()},
            "target_fingerprint": module.target.fingerprint(),
            "curvature": module.curvature_facts(),
            "data": {"class": type(data).__name__, **data.identity()},
            "data_fingerprint": data.fingerprint(),
            "devices": {"type": module.device.type, "count": trainer.world_size, "threads": torch.get_num_threads()},
            "git_revision": git_revision(),
            "versions": {"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}},
        }
        run.write_json(run.manifest, manifest)
