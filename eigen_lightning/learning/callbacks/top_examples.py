"""The top-activating examples of each direction, at epoch end."""

import html
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from eigen_lightning.analysis.top_examples import TopExamples as Found
from eigen_lightning.analysis.top_examples import TopExamplesMetric
from eigen_lightning.learning.callbacks.evaluation import EvaluationCallback, run_folder_of, tensorboards_of
from eigen_lightning.run.errors import UserError


class TopExamples(EvaluationCallback):
    """Writes ``top_examples.jsonl``, and the same as text to TensorBoard, for every evaluation set.

    Args:
        n_examples: examples a direction.

    Raises:
        UserError: where ``n_examples`` is below 1.
    """

    def __init__(self, n_examples: int = 20) -> None:
        if n_examples < 1:
            raise UserError(f"expected n_examples of at least 1, got {n_examples}")
        self.n_examples = n_examples

    def metrics(self, module: LightningModule, sets: list[str]) -> dict[str, Metric]:
        return {name: TopExamplesMetric(module.n_directions, self.n_examples) for name in sets}

    def update(self, metric: Metric, curvature: Tensor, batch: Any) -> None:
        metric.update(curvature, batch.sample_id)

    def finish(self, trainer: Trainer, module: LightningModule, results: dict[str, Any]) -> None:
        if not trainer.is_global_zero:
            return
        sets = trainer.datamodule.evaluation_sets  # type: ignore[attr-defined]
        described = {name: describe(found, sets[name]) for name, found in results.items()}
        lines = [
            {"direction": k, "examples": described["heldout"][k]}
            | {name: each[k] for name, each in described.items() if name != "heldout"}
            for k in range(module.n_directions)
        ]
        run_folder_of(trainer).write_top_examples(lines)
        for board in tensorboards_of(trainer):
            for k, line in enumerate(lines):
                board.add_text(f"top_examples/{k:03d}", as_markdown(line["examples"]), trainer.global_step)


def describe(found: Found, samples: Any) -> list[list[dict[str, Any]]]:
    """What a person sees of each direction's examples, largest first.

    Args:
        found: values and identities.
        samples: the sample set they are of.
    """
    rows = zip(found.value.tolist(), found.sample_id.tolist(), found.position.tolist(), strict=True)
    return [
        [
            {"value": value, "sample_id": sample, **samples.describe(sample, position)}
            for value, sample, position in zip(*row, strict=True)
            if sample >= 0
        ]
        for row in rows
    ]


def as_markdown(examples: list[dict[str, Any]]) -> str:
    """A table of examples; text has its activating token in bold, and nothing in it is taken for markup."""
    lines = ["| value | sample |", "|---|---|"]
    for example in examples:
        if "token" in example:
            before, token, after = (_plain(example[key]) for key in ("before", "token", "after"))
            sample = f"{before}<b>{token}</b>{after}"
        else:
            sample = _plain(str(example["input"]))
        lines.append(f"| {example['value']:.3g} | {sample} |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    escaped = html.escape(text)
    for mark in "|*_`[]\\~#":
        escaped = escaped.replace(mark, f"&#{ord(mark)};")
    return escaped
