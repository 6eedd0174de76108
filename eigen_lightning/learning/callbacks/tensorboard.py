"""What TensorBoard shows beyond scalars by the way: a layout, hyper-parameters with results, intervention curves."""

from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.tensorboard.summary import hparams

from eigen_lightning.learning.callbacks.evaluation import run_folder_of, tensorboards_of
from eigen_lightning.learning.callbacks.geometry import hidden_space
from eigen_lightning.run.folder import RunFolder

CURVES = {"top": "top", "random": "random", "control_top": "control", "predicted": "predicted"}
"""Fields of ``interventions.json`` and what their curves are called."""

SCORES = ("mcc", "selectivity", "uniqueness", "mmcs", "steepness", "explained_curvature", "token_purity")
CONTROLS = ("learned", "random", "pca", "oracle")


class TensorBoard(Callback):
    """Writes the layout when training starts, and what needs the finished run when it ends; nothing in between.

    An intervention's curve is a series whose step is the rank of the weight step: its predicted divergence grows
    evenly in the logarithm from 1e-4 to 1.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for board in tensorboards_of(trainer):
            board.add_custom_scalars(layout(int(pl_module.n_directions)))  # type: ignore[arg-type]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directions = pl_module.U.detach()
        if not trainer.is_global_zero:
            return
        run = run_folder_of(trainer)
        for board in tensorboards_of(trainer):
            if run.interventions.exists():
                _write_interventions(board, run)
            network = pl_module.target.network
            if hasattr(network, "W"):
                picture = hidden_space(network.W.detach().cpu(), *_actions(pl_module, directions))
                board.add_image("hidden_space", picture, trainer.global_step)
            _write_hyper_parameters(board, run, trainer)


def layout(n_directions: int) -> dict[str, dict[str, list[Any]]]:
    """The custom scalars' dashboard: what matters on top, each with its controls on one chart."""
    shown = range(min(n_directions, 64))
    return {
        "Quality, with controls": {
            name: ["Multiline", [f"scorecard/{name}/{control}" for control in CONTROLS]] for name in SCORES
        },
        "Stages": {
            "steepness": ["Multiline", ["train/steepness", "heldout/steepness"]],
            "interference": ["Multiline", ["train/interference", "heldout/interference"]],
            "interference over steepness": ["Multiline", ["heldout/interference_ratio"]],
        },
        "Health": {
            "mean d2D": ["Multiline", ["d2D_mean/.*"]],
            "largest d2D": ["Multiline", ["d2D_max/.*"]],
        },
        "Interventions": {
            f"direction {k}": ["Multiline", [f"intervention_{name}/{k:03d}" for name in CURVES.values()]] for k in shown
        },
    }


def _actions(module: Any, directions: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """How each direction moves W, ``[K, hidden, features]``; none where W is not decomposed."""
    space = module.target.space
    if "W" not in space.names:
        return torch.zeros(0, 1, 1), []
    moved = space.unflatten(directions.cpu())["W"]
    return moved, list(range(len(moved)))


def _write_interventions(board: Any, run: RunFolder) -> None:
    found = run.read_json(run.interventions)
    for line in found["directions"]:
        half = len(line["deltas"]) // 2
        for field, name in CURVES.items():
            for step, value in enumerate(line.get(field, [])[half:]):
                board.add_scalar(f"intervention_{name}/{line['direction']:03d}", value, step)
        for name in ("selectivity", "control_selectivity"):
            if line.get(name) is not None:
                board.add_scalar(f"intervention_{name}", line[name], line["direction"])


def _write_hyper_parameters(board: Any, run: RunFolder, trainer: Trainer) -> None:
    config = yaml.safe_load(run.config.read_text(encoding="utf-8")) if run.config.exists() else {}
    given = _flat({key: config.get(key) for key in ("seed_everything", "model", "data") if key in config})
    results = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("heldout/") and torch.as_tensor(value).numel() == 1
    }
    if run.scorecard.exists():
        learned = run.read_json(run.scorecard).get("learned", {})
        results |= {f"result/{name}": float(v) for name, v in learned.items() if isinstance(v, int | float)}
    if run.interventions.exists():
        median = run.read_json(run.interventions)["median_selectivity"]
        if median is not None:
            results["result/median_intervention_selectivity"] = median
    # `SummaryWriter.add_hparams` would open a second run below this one.
    for summary in hparams(given, results):
        board.file_writer.add_summary(summary)
    for name, value in results.items():
        if name.startswith("result/"):
            board.add_scalar(name, value, trainer.global_step)


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
