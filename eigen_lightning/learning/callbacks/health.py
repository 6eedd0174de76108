"""The health of the directions, each epoch: named, and on request mended."""

import logging
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from eigen_lightning.analysis.health import Health as Found
from eigen_lightning.analysis.health import LeadMetric, Leads, first_non_finite, health
from eigen_lightning.learning.callbacks.evaluation import EvaluationCallback
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.factored_rows import isometric
from eigen_lightning.run.seeding import derive_seed, run_seed

log = logging.getLogger(__name__)


class Health(EvaluationCallback):
    """Counts dead, duplicate and collapsed directions on held-out samples, and stops at the first number that is not
    finite.

    A direction is dead where it is the steepest on no sample, a duplicate where its |cos| with another is above 0.95,
    and collapsed where it lies in the span of the others although there is room outside.

    Args:
        reseed: after each epoch but the last, start dead and collapsed directions, and the less steep of two
            duplicates, anew, with their optimizers' state: random rows, orthogonal to the others where there is room.
    """

    def __init__(self, reseed: bool = False) -> None:
        self.reseed = reseed
        self.found = Found()
        self._steepness: Tensor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.reseed and pl_module.coordinates is not None:
            raise UserError(
                "expected dense rows for Health(reseed=True), got directions held as factors: leave reseed out, or "
                "leave out model.directions"
            )

    def metrics(self, module: LightningModule, sets: list[str]) -> dict[str, Metric]:
        return {"heldout": LeadMetric(module.n_directions)}  # type: ignore[arg-type]

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        outputs, batch = args[0], args[1]
        found = first_non_finite(outputs, batch.sample_id, trainer.global_rank)
        if found is not None:
            raise UserError(f"expected finite curvature, got otherwise: {found}; check the target's weights and dtype")
        super().on_validation_batch_end(trainer, pl_module, *args, **kwargs)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]

    def update(self, metric: Metric, curvature: Tensor, batch: Any) -> None:
        metric.update(curvature)

    def finish(self, trainer: Trainer, module: LightningModule, results: dict[str, Any]) -> None:
        leads: Leads = results["heldout"]
        found = health(isometric(module.directions), leads.count)
        self._steepness = leads.steepness
        module.log_dict(
            {f"unhealthy/{kind}": float(count) for kind, count in found.counts().items()}, rank_zero_only=True
        )
        if not found and found != self.found and trainer.is_global_zero:
            log.warning("directions after epoch %d: %s", trainer.current_epoch, found)
        self.found = found

    # After every callback has used what it found of this epoch's directions, and before the checkpoint is written.
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        if not self.reseed or self.found or last or trainer.state.fn != "fit":
            return
        assert self._steepness is not None
        rows = self.found.to_mend(self._steepness)
        start_anew(pl_module.U, rows, trainer.optimizers, derive_seed(run_seed(), "reseed", trainer.current_epoch))  # type: ignore[arg-type]
        if trainer.is_global_zero:
            log.info("directions started anew after epoch %d: %s", trainer.current_epoch, ", ".join(map(str, rows)))


@torch.no_grad()
def start_anew(U: Float[Tensor, "K P"], rows: list[int], optimizers: list[Optimizer], seed: int) -> None:
    """Replace rows by random ones, orthogonal to the others where there is room, and forget their past.

    Args:
        U: the directions, changed in place; a row with a NaN counts as no direction.
        rows: which.
        optimizers: those that step U: one with ``restart_rows`` is asked to, of any other the state that has U's
            shape is set to zero in these rows.
        seed: of the new rows; the same on every rank.
    """
    n_directions, size = U.shape
    generator = torch.Generator().manual_seed(seed)
    fresh = torch.randn(len(rows), size, generator=generator, dtype=torch.float64)
    kept = [row for row in range(n_directions) if row not in rows]
    if len(kept) + len(rows) <= size:
        taken = torch.linalg.qr(U[kept].double().cpu().T)[0]
        fresh = torch.linalg.qr((fresh - fresh @ taken @ taken.T).T)[0].T
    U[rows] = torch.nn.functional.normalize(fresh, dim=-1).to(U)
    for optimizer in optimizers:
        restart = getattr(optimizer, "restart_rows", None)
        if restart is not None:
            restart(U, rows)
            continue
        for value in optimizer.state[U].values():
            if isinstance(value, Tensor) and value.shape == U.shape:
                value[rows] = 0
