"""The interference matrix and the curvature's moments, on held-out samples at epoch end."""

from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from eigen_lightning.analysis.curvature_statistics import CurvatureStatistics, CurvatureStatisticsMetric
from eigen_lightning.learning.callbacks.evaluation import EvaluationCallback, run_folder_of, tensorboards_of

# From white to a deep blue: equal steps look equal, and it prints.
LOW, HIGH = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.05, 0.2, 0.5])


def heat_map(matrix: Float[Tensor, "K K"], least_side: int = 256) -> Float[Tensor, "3 side side"]:
    """A matrix with entries from 0 to its maximum as a picture, each entry a square of whole pixels."""
    scaled = (matrix / matrix.max().clamp_min(torch.finfo(matrix.dtype).tiny)).float().cpu()
    picture = LOW[:, None, None] + (HIGH - LOW)[:, None, None] * scaled
    pixels = max(1, -(-least_side // len(matrix)))
    return picture.repeat_interleave(pixels, 1).repeat_interleave(pixels, 2)


class Interference(EvaluationCallback):
    """Writes ``interference.npy``, ``coactivity.npy`` and, to the loggers, steepness, interference, d2D a direction."""

    def metrics(self, module: LightningModule, sets: list[str]) -> dict[str, Metric]:
        return {"heldout": CurvatureStatisticsMetric(module.n_directions)}

    def update(self, metric: Metric, curvature: Tensor, batch: Any) -> None:
        metric.update(curvature)

    def finish(self, trainer: Trainer, module: LightningModule, results: dict[str, Any]) -> None:
        statistics: CurvatureStatistics = results["heldout"]
        directions = module.U.detach()
        steepness, interference = statistics.steepness, statistics.interference(directions)
        scalars = {
            "heldout/steepness": steepness,
            "heldout/interference": interference,
            "heldout/interference_ratio": interference / steepness if steepness else 0.0,
        }
        for k, (mean, maximum) in enumerate(zip(statistics.mean.tolist(), statistics.maximum.tolist(), strict=True)):
            scalars[f"d2D_mean/{k:03d}"] = mean
            scalars[f"d2D_max/{k:03d}"] = maximum
        module.log_dict(scalars, rank_zero_only=True)
        if not trainer.is_global_zero:
            return
        run = run_folder_of(trainer)
        run.write_interference(statistics.interference_matrix(directions))
        run.write_matrix(run.coactivity, statistics.coactivity)
        for board in tensorboards_of(trainer):
            for name, normalized in (("interference", False), ("interference_normalized", True)):
                matrix = statistics.interference_matrix(directions, normalized)
                board.add_image(name, heat_map(matrix), trainer.global_step)
