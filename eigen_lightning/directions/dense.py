"""Directions held as rows of a matrix: random ones, their sign and their order."""

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.run.seeding import derive_seed


def random_rows(count: int, size: int, seed: int, *purpose: str | int) -> Float[Tensor, "count P"]:
    """Independent normal rows of unit length, float64, reproducible from the seed and what they are for."""
    generator = torch.Generator().manual_seed(derive_seed(seed, *purpose))
    # Named, as Lightning builds modules with the accelerator as torch's default device.
    rows = torch.randn(count, size, generator=generator, dtype=torch.float64, device=generator.device)
    return torch.nn.functional.normalize(rows, dim=-1)


def with_canonical_sign(rows: Float[Tensor, "K P"]) -> Float[Tensor, "K P"]:
    """Each row or its negative, which has the same d2D: the one on the positive side of a fixed random hyperplane.

    The sign of the largest entry would do as well, were there not rows with two equally large ones.
    """
    normal = random_rows(1, rows.shape[1], 0, "canonical sign")[0].to(rows.device)
    positive = (rows.double() @ normal >= 0)[:, None]
    return torch.where(positive, rows, -rows)
