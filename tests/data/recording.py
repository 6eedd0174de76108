"""A module that learns nothing and remembers which samples it was given."""

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
from byte_tokenizer import ByteTokenizer


class Recording(pl.LightningModule):
    """Manual optimization with one step a batch, as the decomposition has."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.target = SimpleNamespace(tokenizer=ByteTokenizer())
        self.trained: list[tuple[int, int, list[int]]] = []
        self.evaluated: list[tuple[int, list[int]]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.trained.append((self.current_epoch, batch_idx, batch.sample_id.tolist()))
        self.manual_backward(self.weight.sum())
        self.optimizers().step()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluated.append((dataloader_idx, batch.sample_id.tolist()))

    def predict_step(self, batch: Any, batch_idx: int) -> list[int]:
        return batch.sample_id.tolist()


def quiet_trainer(folder: Any, **options: Any) -> pl.Trainer:
    """A trainer without bars, loggers or a first validation."""
    defaults: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 3, "num_sanity_val_steps": 0, "logger": False}
    silence = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(default_root_dir=folder, **(defaults | silence | options))
