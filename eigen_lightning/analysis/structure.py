"""What a direction looks like in the weights: its share by parameter, of rank one, and of one attention head."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

NUMBERS_AT_ONCE = 2**23
"""Numbers of one matrix parameter that are in float64 at a time."""


@dataclass(frozen=True, eq=False)
class Structure:
    """Where the squared norm of K directions is. Shares are float64 on the CPU, NaN where there is nothing to share.

    Attributes:
        by_parameter: by parameter, its share of the direction's squared norm.
        first_singular: by matrix, the share of its own squared norm in its first singular pair: 1 for rank one.
            Parameters of more than two dimensions count as matrices ``[first, all others]``; vectors, and matrices of
            one row or column, which always have rank one, are left out.
        first_singular_share: the mean of it over matrices, weighted by squared norm; NaN where there is no matrix.
        leading_head: by parameter with heads, the head that has most of it.
        head: by parameter with heads, the share of its own squared norm in that head.
        head_share: the mean of it over these parameters, weighted by squared norm; NaN where there is none.
    """

    by_parameter: dict[str, Float[Tensor, " K"]]
    first_singular: dict[str, Float[Tensor, " K"]]
    first_singular_share: Float[Tensor, " K"]
    leading_head: dict[str, Int[Tensor, " K"]]
    head: dict[str, Float[Tensor, " K"]]
    head_share: Float[Tensor, " K"]

    def means(self) -> dict[str, float]:
        """Mean over directions of what there is of ``first_singular_share`` and ``head_share``."""
        figures = {"first_singular_share": self.first_singular_share, "head_share": self.head_share}
        known = {name: values[values.isfinite()] for name, values in figures.items()}
        return {name: float(values.mean()) for name, values in known.items() if len(values)}

    def to_json(self) -> dict[str, Any]:
        """Lists of K numbers under the attributes' names; None for NaN."""
        return {
            "by_parameter": _lists(self.by_parameter),
            "first_singular": _lists(self.first_singular),
            "first_singular_share": _list(self.first_singular_share),
            "leading_head": {name: heads.tolist() for name, heads in self.leading_head.items()},
            "head": _lists(self.head),
            "head_share": _list(self.head_share),
        }


@torch.no_grad()
def structure(
    directions: Float[Tensor, "K P"],
    shapes: Mapping[str, tuple[int, ...]],
    heads: Mapping[str, tuple[int, int]] | None = None,
) -> Structure:
    """Where the squared norm of each direction is.

    Args:
        directions: U, of any norm.
        shapes: shape of each parameter by name, in the order of P.
        heads: for parameters that attention heads share, how many heads there are and along which axis they lie one
            after another in equal blocks: ``{"blocks.4.attn.W_K": (16, 0)}`` for 16 heads in the rows.

    Raises:
        ValueError: where the shapes do not make up P, or heads do not divide their axis.
    """
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    if sum(sizes) != directions.shape[1]:
        raise ValueError(f"shapes of {sum(sizes)} numbers for directions of {directions.shape[1]}")
    norms: dict[str, Tensor] = {}
    largest: dict[str, Tensor] = {}
    by_head: dict[str, Tensor] = {}
    for (name, shape), part in zip(shapes.items(), directions.split(sizes, 1), strict=True):
        norms[name] = part.double().square().sum(1).cpu()
        if len(shape) > 1 and min(shape[0], part.shape[1] // shape[0]) > 1:
            largest[name] = _largest_squared_singular_value(part.reshape(len(part), shape[0], -1))
        if heads and name in heads:
            by_head[name] = _squared_norm_by_head(part.reshape(len(part), *shape), *heads[name])
    leading = {name: squares.max(1) for name, squares in by_head.items()}
    total = torch.stack(list(norms.values())).sum(0)
    return Structure(
        by_parameter={name: norm / total for name, norm in norms.items()},
        first_singular={name: square / norms[name] for name, square in largest.items()},
        first_singular_share=_weighted_mean(largest, norms, total),
        leading_head={name: best.indices for name, best in leading.items()},
        head={name: best.values / norms[name] for name, best in leading.items()},
        head_share=_weighted_mean({name: best.values for name, best in leading.items()}, norms, total),
    )


def _largest_squared_singular_value(matrices: Float[Tensor, "K m n"]) -> Float[Tensor, " K"]:
    """By the smaller Gram matrix, whose largest eigenvalue, unlike its small ones, has full accuracy."""
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT
    at_once = max(1, NUMBERS_AT_ONCE // matrices[0].numel())
    found = []
    for some in matrices.split(at_once):
        some = some.double()
        found.append(torch.linalg.eigvalsh(some @ some.mT)[:, -1].cpu())
    return torch.cat(found)


def _squared_norm_by_head(part: Float[Tensor, "K *shape"], n_heads: int, axis: int) -> Float[Tensor, "K heads"]:
    axis = axis + 1 if axis >= 0 else axis + part.ndim
    if part.shape[axis] % n_heads:
        raise ValueError(f"{n_heads} heads do not divide an axis of {part.shape[axis]}")
    blocks = part.double().square().unflatten(axis, (n_heads, -1)).movedim(axis, 1)
    return blocks.flatten(2).sum(2).cpu()


def _weighted_mean(
    squares: Mapping[str, Float[Tensor, " K"]], norms: Mapping[str, Float[Tensor, " K"]], like: Float[Tensor, " K"]
) -> Float[Tensor, " K"]:
    """Shares of their own norms averaged with these norms as weights: the sum of one over the sum of the other."""
    nothing = torch.zeros_like(like)
    return sum(squares.values(), nothing) / sum((norms[name] for name in squares), nothing)


def _list(values: Float[Tensor, " K"]) -> list[float | None]:
    return [value if value == value else None for value in values.tolist()]


def _lists(values: Mapping[str, Float[Tensor, " K"]]) -> dict[str, list[float | None]]:
    return {name: _list(of_name) for name, of_name in values.items()}
