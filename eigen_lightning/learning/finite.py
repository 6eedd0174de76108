"""Stops a run at the first number that is not finite, with what is needed to look into it."""

from pathlib import Path
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from eigen_lightning.analysis.health import first_non_finite
from eigen_lightning.data.stream import Batch
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import write_atomically
from eigen_lightning.run.tensor_tree import TensorTree


def raise_not_finite(
    d: Float[Tensor, "K batch *positions"],
    batch: Batch,
    U: Float[Tensor, "K P"],
    folder: Path,
    when: str,
) -> NoReturn:
    """Refuse a gradient, reduced over ranks, that is not finite: U and the last checkpoint are left as they are.

    What is not finite on one rank is not finite in the reduced gradient of all, so that all stop at the same step.
    Each rank that has a part in it writes its batch to ``offending_batch.rank<r>.safetensors``, with U and d2D.

    Args:
        d: of this rank's samples.
        batch: this rank's.
        U: the directions.
        folder: where the batch is written.
        when: stage and step, for the message.

    Raises:
        UserError: naming sample, position, direction, rank and step.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    # Where d2D itself is finite, its power in the objective may not be.
    mine = first_non_finite(d, batch.sample_id, rank) or first_non_finite(d**4, batch.sample_id, rank)
    of_ranks: list[Any] = [mine]
    if distributed:
        of_ranks = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(of_ranks, mine)
    first = next((each for each in of_ranks if each is not None), None)
    if mine is not None or (first is None and rank == 0):
        parts = batch.inputs.parts if isinstance(batch.inputs, TensorTree) else (batch.inputs,)
        inputs = {f"inputs{number or ''}": part for number, part in enumerate(parts)}
        tensors = {**inputs, "sample_id": batch.sample_id, "curvature": d, "U": U}
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        write_atomically(folder / f"offending_batch.rank{rank}.safetensors", content)
    raise UserError(
        f"expected finite curvature, got {first or 'a gradient that is not'}, in {when}; the batch is in {folder}, and "
        "so is the last good checkpoint: check the target's weights and dtype there, then go on with --ckpt_path last"
    )
