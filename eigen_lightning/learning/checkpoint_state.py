"""What a checkpoint keeps of a decomposition beside U and the optimizers."""

from dataclasses import asdict
from typing import Any

from eigen_lightning.learning.normalization import Scale
from eigen_lightning.run.errors import UserError

KEY = "decomposition"


def saved(module: Any) -> dict[str, Any]:
    """The part of the checkpoint: primitives alone."""
    return {
        "target_fingerprint": module.target.fingerprint(),
        "optimizers": [type(optimizer).__name__ for optimizer in module.trainer.optimizers],
        "started": module.started,
        "scale": None if module.scaled.scale is None else asdict(module.scaled.scale),
        "rows": module.scaled.rows,
    }


def restore(module: Any, checkpoint: dict[str, Any]) -> None:
    """Take it back.

    Raises:
        UserError: where the checkpoint is of another target, another number of directions or other optimizers.
    """
    kept = checkpoint[KEY]
    fingerprint = module.target.fingerprint()
    if kept["target_fingerprint"] != fingerprint:
        raise UserError(
            f"expected a checkpoint of the target {fingerprint[:12]}, got one of {kept['target_fingerprint'][:12]}: "
            "give the run folder and configuration it was saved with"
        )
    found = len(checkpoint["state_dict"]["U"])
    if found != module.n_directions:
        raise UserError(
            f"expected a checkpoint of model.n_directions of {found} as it was saved, got {module.n_directions}: set "
            "it back, or start a new run"
        )
    optimizers = [type(optimizer).__name__ for optimizer in module.configure_optimizers()]
    if kept["optimizers"] != optimizers:
        raise UserError(
            f"expected the optimizers of the checkpoint, {' and '.join(kept['optimizers'])}, got "
            f"{' and '.join(optimizers)}: set model.stage1 and model.stage2 back, or start a new run"
        )
    module.started = kept["started"]
    module.scaled.scale = None if kept["scale"] is None else Scale(**kept["scale"])
    module.scaled.rows = kept["rows"]
