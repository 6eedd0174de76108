"""The tables a run ends with, in the form of the paper: direction, sample, value."""

import json
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eigen_lightning.analysis import figures
from eigen_lightning.learning.callbacks.evaluation import run_folder_of
from eigen_lightning.report.text import one_line
from eigen_lightning.run.folder import RunFolder

TITLES = {"examples": "Top held-out samples", "single_feature": "Samples with a single feature on"}


class Summary(Callback):
    """Prints each direction's top samples when training ends.

    Args:
        n_examples: samples a direction.
    """

    def __init__(self, n_examples: int = 5) -> None:
        self.n_examples = n_examples

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = run_folder_of(trainer)
        if not trainer.is_global_zero or not run.manifest.exists():
            return
        console = Console()
        for table in tables(run, self.n_examples) if run.top_examples.exists() else []:
            console.print(table)
        if run.scorecard.exists():
            console.print(figures.table(json.loads(run.scorecard.read_text(encoding="utf-8"))))
        console.print(
            f"Results: [bold]{run.path}[/bold]. TensorBoard: tensorboard --logdir {run.tensorboard}", soft_wrap=True
        )


def tables(run: RunFolder, n_examples: int) -> list[Table]:
    """One table for each evaluation set in ``top_examples.jsonl``."""
    lines = run.read_top_examples()
    made = []
    for key in (key for key in lines[0] if key != "direction"):
        table = Table("direction", "sample", "d2D", title=TITLES.get(key, key))
        table.columns[2].justify = "right"
        for line in lines:
            for rank, example in enumerate(line[key][:n_examples]):
                first = "" if rank else str(line["direction"])
                table.add_row(first, shown(example), f"{example['value']:.3g}")
            table.add_section()
        made.append(table)
    return made


def shown(example: dict[str, Any]) -> Text:
    """A sample on one line: an input's numbers, or a token in its context."""
    if "token" in example:
        return Text.assemble(example["before"], (example["token"], "bold reverse"), example["after"])
    return Text(one_line(example))
