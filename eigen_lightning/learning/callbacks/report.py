"""The report, written when a fit ends."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from eigen_lightning.learning.callbacks.evaluation import run_folder_of
from eigen_lightning.report import write_report

log = logging.getLogger(__name__)


class ReportWriter(Callback):
    """Writes ``report.html`` from the finished run folder."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = run_folder_of(trainer)
        if trainer.is_global_zero and run.top_examples.exists():
            log.info("report: %s", write_report(run).resolve())
