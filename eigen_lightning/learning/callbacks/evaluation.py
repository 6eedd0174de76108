"""What callbacks that look at evaluation share: which set a batch is of, and which loggers take what."""

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics import Metric

from eigen_lightning.run.folder import RunFolder


class EvaluationCallback(Callback, ABC):
    """A metric on d2D of evaluation batches: when it is made, updated and used, in validation and testing alike.

    A new one writes :meth:`metrics`, :meth:`update` and :meth:`finish`.
    """

    @abstractmethod
    def metrics(self, module: LightningModule, sets: list[str]) -> dict[str, Metric]:
        """Fresh metrics for the evaluation sets of these names."""

    @abstractmethod
    def update(self, metric: Metric, curvature: Tensor, batch: Any) -> None:
        """Take in d2D ``[K, batch, *positions]`` of one batch."""

    @abstractmethod
    def finish(self, trainer: Trainer, module: LightningModule, results: dict[str, Any]) -> None:
        """Use what the metrics computed, by set; called on every rank."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module, list(trainer.datamodule.evaluation_sets))  # type: ignore[attr-defined]

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module, ["heldout"])

    def on_validation_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        name = self._sets[dataloader_idx]
        if name in self._metrics:
            self.update(self._metrics[name], outputs, batch)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish(trainer, pl_module, {name: metric.compute() for name, metric in self._metrics.items()})

    on_test_epoch_end = on_validation_epoch_end

    def _start(self, module: LightningModule, sets: list[str]) -> None:
        self._sets = sets
        self._metrics = {name: metric.to(module.device) for name, metric in self.metrics(module, sets).items()}


def run_folder_of(trainer: Trainer) -> RunFolder:
    """The run folder a trainer writes to."""
    return RunFolder(trainer.default_root_dir)


def tensorboards_of(trainer: Trainer) -> list[Any]:
    """The TensorBoard writers of a trainer; they write nothing on ranks other than 0."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def takes_pictures(trainer: Trainer) -> bool:
    """Whether any logger takes pictures."""
    return any(
        hasattr(logger, "log_image") or hasattr(getattr(logger, "experiment", None), "add_image")
        for logger in trainer.loggers
    )


def show_picture(trainer: Trainer, name: str, picture: UInt8[Tensor, "3 height width"]) -> None:
    """Give a picture to each logger that takes pictures, TensorBoard and Weights & Biases among them; on rank 0."""
    for logger in trainer.loggers:
        board = getattr(logger, "experiment", None)
        if hasattr(logger, "log_image"):
            logger.log_image(key=name, images=[picture.permute(1, 2, 0).numpy()], step=trainer.global_step)
        elif hasattr(board, "add_image"):
            board.add_image(name, picture, trainer.global_step)
