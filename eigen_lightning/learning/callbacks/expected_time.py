"""Says in a long run's first lines how long it will take."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from eigen_lightning.learning.expected import expected
from eigen_lightning.learning.module import SparseEigendecomposition

log = logging.getLogger(__name__)

SAID_FROM = 30.0
"""Seconds of learning from which on it is said."""


class ExpectedTime(Callback):
    """Measures a few steps before learning begins, and logs how long it will take where that is over 30 seconds."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SparseEigendecomposition)
        if not trainer.is_global_zero or pl_module.learned is not None:
            return
        told = expected(pl_module)
        if told.seconds > SAID_FROM:
            log.info("%s", told)
