"""d2D of directions on one batch, as a function of the directions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class CurvatureOnBatch:
    """d2D of directions on one batch: ``[K, P] -> [K, batch, *positions]``; differentiable in the directions.

    Attributes:
        evaluate: for at most ``rows`` directions.
        rows: how many directions are evaluated at a time.
    """

    evaluate: Callable[[Tensor], Tensor]
    rows: int

    def __call__(self, directions: Float[Tensor, "K P"]) -> Float[Tensor, "K batch *positions"]:
        if len(directions) <= self.rows:
            return self.evaluate(directions)
        return torch.cat([self.evaluate(part) for part in directions.split(self.rows)])

    def divided_by(self, divisor: Tensor | float) -> "CurvatureOnBatch":
        """The same, each sample's curvature divided by a number of its own."""
        return CurvatureOnBatch(lambda directions: self.evaluate(directions) / divisor, self.rows)
