"""What TensorBoard shows beyond curves: controls as lines, a toy model's hidden space, settings with results."""

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from eigen_lightning.learning.callbacks.evaluation import run_folder_of, show_picture, tensorboards_of
from eigen_lightning.report.hidden_space import hidden_space
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets.toys.tms import TMSTarget

CHARTS = {
    "steepness": "heldout/steepness",
    "interference": "heldout/interference",
    **{
        figure: f"scorecard/{figure}"
        for figure in ("mcc", "selectivity", "uniqueness", "mmcs", "explained_curvature", "token_purity")
    },
}
"""Figures of a scorecard that TensorBoard shows, and in which chart."""

CONTROLS = ("random", "pca", "oracle")

CAUSAL = "interventions/median_selectivity"


class TensorBoard(Callback):
    """Shows a toy model's hidden space after each epoch and, when training ends, the settings with their results."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        target = pl_module.target
        if trainer.is_global_zero and isinstance(target, TMSTarget) and "W" in target.space.names:
            W, moved = target.weights["W"], target.space.unflatten(pl_module.directions)["W"]
            show_picture(trainer, "hidden_space", hidden_space(W.detach().cpu(), moved.cpu()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        run = run_folder_of(trainer)
        for board in tensorboards_of(trainer):
            results = _results(run, trainer)
            if CAUSAL in results:
                board.add_scalar(CAUSAL, results[CAUSAL], trainer.global_step)
            # `SummaryWriter.add_hparams` would open a second run below this one.
            for summary in hparams(_settings(run), results):
                board.file_writer.add_summary(summary)


def add_scorecard(logger: TensorBoardLogger, card: dict[str, Any], step: int) -> None:
    """Show a scorecard: of the learned directions a point, of each control a line from the beginning to ``step``.

    A control is a run of its own in a folder below the logger's: TensorBoard gives each run a color and a name, and
    draws what several runs call the same in one chart.

    Args:
        logger: of the run.
        card: the content of ``scorecard.json``.
        step: when it was made.
    """
    for figure, chart in CHARTS.items():
        if figure in card["learned"] and chart.startswith("scorecard/"):
            logger.experiment.add_scalar(chart, card["learned"][figure], step)
    for control in CONTROLS:
        folder = Path(logger.log_dir) / control
        # Written anew each time, so that a resumed run has each line once.
        shutil.rmtree(folder, ignore_errors=True)
        if control not in card:
            continue
        with SummaryWriter(str(folder)) as writer:
            for figure, chart in CHARTS.items():
                if figure in card[control]:
                    for end in (0, step):
                        writer.add_scalar(chart, card[control][figure], end)


def _results(run: RunFolder, trainer: Trainer) -> dict[str, float]:
    results = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("heldout/") and torch.as_tensor(value).numel() == 1
    }
    if run.scorecard.exists():
        learned = run.read_json(run.scorecard)["learned"]
        results |= {
            chart: float(learned[figure])
            for figure, chart in CHARTS.items()
            if figure in learned and chart.startswith("scorecard/")
        }
    if run.interventions.exists():
        median = run.read_json(run.interventions)["median_selectivity"]
        if median is not None:
            results[CAUSAL] = median
    return results


def _settings(run: RunFolder) -> dict[str, bool | str | float | int]:
    config = yaml.safe_load(run.config.read_text(encoding="utf-8")) if run.config.exists() else {}
    return _flat({key: config.get(key) for key in ("seed_everything", "model", "data") if key in config})


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, bool | str | float | int]:
    flat: dict[str, bool | str | float | int] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float):
            flat[prefix + key] = value
        elif value is not None:
            flat[prefix + key] = str(value) if key != "source" else Path(str(value)).name
    return flat
