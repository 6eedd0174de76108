"""The top-activating examples of each direction, at epoch end."""

import re
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from eigen_lightning.analysis.top_examples import TopExamplesMetric, describe
from eigen_lightning.learning.callbacks.evaluation import EvaluationCallback, run_folder_of, tensorboards_of
from eigen_lightning.report.text import one_line
from eigen_lightning.run.errors import UserError

SHOWN = 5
"""Examples a direction on TensorBoard's page: all of them, of 64 directions, would be a long one."""


class TopExamples(EvaluationCallback):
    """Writes ``top_examples.jsonl`` for every evaluation set, and one page of the held-out ones to TensorBoard.

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
            board.add_text("top_examples", as_markdown(described["heldout"]), trainer.global_step)


def as_markdown(described: list[list[dict[str, Any]]], shown: int = SHOWN) -> str:
    """One table of the first ``shown`` examples of every direction; of text, the activating token is in bold."""
    lines = ["| direction | d2D | sample |", "|---|---|---|"]
    for k, examples in enumerate(described):
        for rank, example in enumerate(examples[:shown]):
            lines.append(f"| {'' if rank else f'**{k}**'} | {example['value']:.3g} | {_sample(example)} |")
    return "\n".join(lines)


def _sample(example: dict[str, Any]) -> str:
    if "token" in example:
        # Bold cannot begin or end with a space.
        space, token, more = re.fullmatch(r"(\s*)(.*?)(\s*)", example["token"], re.DOTALL).groups()  # type: ignore[union-attr]
        return f"{literal(example['before'] + space)}**{literal(token or '␣')}**{literal(more + example['after'])}"
    return literal(one_line(example).strip("[]"))


def literal(text: str) -> str:
    """Text that Markdown and HTML show as it is: every sign that could mean something in either as its number."""
    return re.sub(r"[!-/:-@\[-`{-~]", lambda sign: f"&#{ord(sign[0])};", re.sub(r"\s", " ", text))
