"""What the report's cards need beyond top examples, when training ends; a histogram of all d2D after every epoch."""

from typing import Any

from jaxtyping import Int
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from eigen_lightning.analysis.cards import direction_cards
from eigen_lightning.analysis.histogram import CurvatureHistogramMetric, edges
from eigen_lightning.learning.callbacks.evaluation import EvaluationCallback, run_folder_of, tensorboards_of


class Cards(EvaluationCallback):
    """Writes ``cards.jsonl`` when training ends, and a histogram of all d2D to TensorBoard after every epoch."""

    def metrics(self, module: LightningModule, sets: list[str]) -> dict[str, Metric]:
        return {"heldout": CurvatureHistogramMetric(module.n_directions)}

    def update(self, metric: Metric, curvature: Tensor, batch: Any) -> None:
        metric.update(curvature)

    def finish(self, trainer: Trainer, module: LightningModule, results: dict[str, Any]) -> None:
        self._counts = results["heldout"].cpu()
        if trainer.is_global_zero:
            for board in tensorboards_of(trainer):
                _add_histogram(board, self._counts.sum(0), trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = run_folder_of(trainer)
        if trainer.is_global_zero and run.top_examples.exists() and hasattr(self, "_counts"):
            samples = trainer.datamodule.evaluation_sets["heldout"]  # type: ignore[attr-defined]
            lines = run.read_top_examples()
            cards = direction_cards(pl_module.linearize_inputs, samples, pl_module.U.detach(), lines, self._counts)  # type: ignore[arg-type]
            run.write_lines(run.cards, [card.to_json() for card in cards])


def _add_histogram(board: Any, counts: Int[Tensor, " bins+2"], step: int) -> None:
    """All directions' d2D, on a logarithmic axis: linear, one bin would hold nearly all; zeros are left out."""
    filled = counts[1:-1].nonzero().flatten()
    if not len(filled):
        return
    part = slice(int(filled[0]), int(filled[-1]) + 1)
    # TensorBoard takes the upper border of each bin.
    limits, number = edges().log10()[1:][part], counts[1:-1][part].double()
    board.add_histogram_raw(
        "heldout/log10_d2D",
        min=float(limits[0]),
        max=float(limits[-1]),
        num=int(number.sum()),
        sum=float((limits * number).sum()),
        sum_squares=float((limits.square() * number).sum()),
        bucket_limits=limits.tolist(),
        bucket_counts=number.tolist(),
        global_step=step,
    )
