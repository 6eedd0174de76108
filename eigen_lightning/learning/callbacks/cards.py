"""What a direction's card in the report needs beyond its top examples: its histogram, and d2D of every token around."""

from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from eigen_lightning.analysis.histogram import CurvatureHistogramMetric, edges
from eigen_lightning.learning.callbacks.evaluation import EvaluationCallback, run_folder_of, tensorboards_of
from eigen_lightning.run.waiting import Waiting

WINDOWS_AT_ONCE = 32


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
        directions = pl_module.U.detach()
        if trainer.is_global_zero and run.top_examples.exists() and hasattr(self, "_counts"):
            samples = trainer.datamodule.evaluation_sets["heldout"]  # type: ignore[attr-defined]
            run.write_lines(run.cards, cards(pl_module, samples, directions, run.read_top_examples(), self._counts))


def cards(
    module: Any, samples: Any, directions: Float[Tensor, "K P"], lines: list[dict[str, Any]], counts: Tensor
) -> list[dict[str, Any]]:
    """One line a direction: its histogram, and for text the d2D of every token of each top example's window.

    Args:
        module: with its loaded target.
        samples: the held-out samples.
        directions: U.
        lines: the content of ``top_examples.jsonl``.
        counts: from :class:`CurvatureHistogramMetric`.
    """
    contexts: list[list[dict[str, Any]]] = [[] for _ in lines]
    if hasattr(samples, "tokens"):
        contexts = _contexts(module, samples, directions, lines)
    borders = [round(float(edge), 14) for edge in edges().log10()]
    made = []
    for line, row, context in zip(lines, counts.tolist(), contexts, strict=True):
        inside = [index for index, count in enumerate(row[1:-1]) if count]
        first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
        histogram = {
            "log10_edges": borders[first : last + 1] if inside else [],
            "counts": row[1 + first : 1 + last],
            "below": row[0],
            "samples": sum(row),
        }
        made.append({"direction": line["direction"], "histogram": histogram, "contexts": context})
    return made


def _contexts(module: Any, samples: Any, directions: Tensor, lines: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    wanted: dict[int, list[int]] = {}
    for k, line in enumerate(lines):
        for example in line["examples"]:
            wanted.setdefault(example["sample_id"], []).append(k)
    values: dict[tuple[int, int], list[float]] = {}
    identities = list(wanted)
    with Waiting("Shading the tokens of top examples", len(identities)) as waiting:
        for start in range(0, len(identities), WINDOWS_AT_ONCE):
            part = identities[start : start + WINDOWS_AT_ONCE]
            batch = samples.batch(0, torch.tensor([samples.locate(identity)[1] for identity in part]))
            batch = type(batch)(batch.inputs.to(module.device), batch.sample_id)
            curvature = module.linearize(batch, samples).d2D(directions).cpu()
            for column, identity in enumerate(part):
                for k in wanted[identity]:
                    values[k, identity] = [float(f"{value:.4g}") for value in curvature[k, column].tolist()]
            waiting.reach(start + len(part))
    tokens = {identity: samples.tokens(identity) for identity in identities}
    return [
        [
            {
                "sample_id": example["sample_id"],
                "position": example["position"],
                "tokens": tokens[example["sample_id"]],
                "values": values[k, example["sample_id"]],
            }
            for example in line["examples"]
        ]
        for k, line in enumerate(lines)
    ]


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
