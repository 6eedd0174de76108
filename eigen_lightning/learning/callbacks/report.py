"""The report, written when a fit ends."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from eigen_lightning.learning.callbacks.evaluation import run_folder_of
from eigen_lightning.report import write_report

log = logging.getLogger(__name__)


class ReportWriter(Callback):
    """Writes ``report.html`` when a fit ends, from whatever the run folder then holds."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = run_folder_of(trainer)
        if not trainer.is_global_zero:
            return
        if not run.manifest.exists():
            log.warning("no batch was trained on (limit_train_batches, max_epochs, max_steps): there is no report")
            return
        if not run.top_examples.exists():
            log.warning(
                "no held-out sample was looked at (no TopExamples callback, or limit_val_batches, max_steps or "
                "check_val_every_n_epoch let no validation happen): the report has no examples and no causal checks. "
                "Find examples with: eigen-lightning test --config %s, then: eigen-lightning report %s",
                run.config,
                run.path,
            )
        log.info("report: %s", write_report(run).resolve())
