"""Stops a run at the first number that is not finite, with what is needed to look into it."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from eigen_lightning.analysis.health import first_non_finite
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import write_atomically


def check_finite(
    module: Any, stage: int, gradient: Float[Tensor, "K P"], curvature: Float[Tensor, "K batch *positions"], batch: Any
) -> None:
    """Refuse a gradient, reduced over ranks, that is not finite: U and the last checkpoint are left as they are.

    What is not finite on one rank is not finite in the reduced gradient of all, so that all stop at the same step.
    Each rank that has a part in it keeps its batch as ``offending_batch.rank<r>.safetensors`` beside the checkpoints,
    with the directions that it evaluates and their curvature.

    Args:
        module: the decomposition.
        stage: 1 or 2.
        gradient: what is about to be stepped with, of the directions that this rank evaluates.
        curvature: of this rank's samples, along these directions.
        batch: this rank's.

    Raises:
        UserError: naming sample, position, direction, rank and step.
    """
    if module.layout.all_agree(bool(gradient.isfinite().all())):
        return
    rank, trainer = module.global_rank, module.trainer
    # Where curvature itself is finite its square, the steepness, may not be.
    found = first_non_finite(curvature, batch.sample_id, rank) or first_non_finite(
        curvature.square(), batch.sample_id, rank
    )
    if found is not None:
        found = replace(found, direction=module.layout.first + found.direction)
    named: list[Any] = [found]
    if trainer.world_size > 1:
        named = [None] * trainer.world_size
        torch.distributed.all_gather_object(named, found)
    first = next((each for each in named if each is not None), None)
    folder = module.run_folder.checkpoints
    if found is not None or (first is None and rank == 0):
        directions = module.layout.local(module.U)
        tensors = {"inputs": batch.inputs, "sample_id": batch.sample_id, "curvature": curvature, "U": directions}
        content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        write_atomically(folder / f"offending_batch.rank{rank}.safetensors", content)
    raise UserError(
        f"expected finite curvature, got {first or 'a gradient that is not'}, in stage {stage} of step "
        f"{trainer.global_step}; the batch is kept in {folder}, and so is the last good checkpoint: check the "
        "target's weights and dtype there, then go on with --ckpt_path last"
    )
