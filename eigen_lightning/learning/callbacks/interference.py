"""The interference matrix and the curvature's moments, on held-out samples at epoch end."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from eigen_lightning.analysis.curvature_statistics import CurvatureStatistics, CurvatureStatisticsMetric
from eigen_lightning.learning.callbacks.evaluation import (
    EvaluationCallback,
    run_folder_of,
    show_picture,
    takes_pictures,
)
from eigen_lightning.report.heat_map import heat_map
from eigen_lightning.run.factored_rows import isometric

TITLE = r"mean of $d_k\,d_l\,\cos^2$ over held-out samples, 1 for $k = l$"


class Interference(EvaluationCallback):
    """Writes ``interference.npy`` and ``coactivity.npy``, and logs steepness, interference and a picture of who
    interferes with whom.

    Args:
        per_direction: log the mean and the largest d2D of every direction as well: two curves a direction.
    """

    def __init__(self, per_direction: bool = False) -> None:
        self.per_direction = per_direction

    def metrics(self, module: LightningModule, sets: list[str]) -> dict[str, Metric]:
        return {"heldout": CurvatureStatisticsMetric(module.n_directions)}  # type: ignore[arg-type]

    def update(self, metric: Metric, curvature: Tensor, batch: Any) -> None:
        metric.update(curvature)

    def finish(self, trainer: Trainer, module: LightningModule, results: dict[str, Any]) -> None:
        statistics: CurvatureStatistics = results["heldout"]
        directions = isometric(module.directions)
        steepness, interference = statistics.steepness, statistics.interference(directions)
        scalars = {
            "heldout/steepness": steepness,
            "heldout/interference": interference,
            "heldout/interference_ratio": interference / steepness if steepness else 0.0,
        }
        if self.per_direction:
            pairs = zip(statistics.mean.tolist(), statistics.maximum.tolist(), strict=True)
            for k, (mean, maximum) in enumerate(pairs):
                scalars |= {f"d2D_mean/{k:03d}": mean, f"d2D_max/{k:03d}": maximum}
        module.log_dict(scalars, rank_zero_only=True)
        if not trainer.is_global_zero:
            return
        run = run_folder_of(trainer)
        run.write_interference(statistics.interference_matrix(directions))
        run.write_matrix(run.coactivity, statistics.coactivity)
        # Drawing takes longer than the rest of an epoch of a toy.
        if takes_pictures(trainer):
            matrix = statistics.interference_matrix(directions, normalized=True)
            show_picture(trainer, "heldout/interference_matrix", heat_map(matrix, TITLE))
