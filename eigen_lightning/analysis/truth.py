"""The true directions of a network whose features are known, and whether they are a truth that can be found."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.analysis.controls import OVERSAMPLING, principal_directions, random_directions
from eigen_lightning.analysis.recovery import absolute_cosines
from eigen_lightning.curvature import Linearizer


@dataclass(frozen=True)
class Truth:
    """Leading eigenvectors of the mean Hessian over the samples with one feature alone, for each feature.

    Attributes:
        subspaces: ``[features, rank, P]``, orthonormal rows, largest eigenvalue first.
        eigenshare: how much of each feature's curvature, the trace of its Hessian, lies in its subspace. Far below 1
            no single direction stands for the feature.
    """

    subspaces: Float[Tensor, "features rank P"]
    eigenshare: Float[Tensor, " features"]

    @property
    def rank(self) -> int:
        """Directions a feature."""
        return self.subspaces.shape[1]

    @property
    def rows(self) -> Float[Tensor, "rows P"]:
        """All true directions, feature by feature."""
        return self.subspaces.flatten(0, 1)

    @cached_property
    def overlap(self) -> float:
        """Mean over features of the largest ``|cos|`` with another feature's direction: near 1 they cannot be told
        apart in parameter space."""
        cosines = absolute_cosines(self.rows, self.rows)
        feature = torch.arange(len(self.subspaces)).repeat_interleave(self.rank)
        cosines[feature[:, None] == feature] = 0.0
        return float(cosines.view(len(self.subspaces), -1).amax(1).mean())

    def to_json(self) -> dict[str, float]:
        """``rank``, mean and least ``eigenshare``, and ``overlap``."""
        return {
            "rank": self.rank,
            "eigenshare": float(self.eigenshare.mean()),
            "least_eigenshare": float(self.eigenshare.min()),
            "overlap": self.overlap,
        }


def true_directions(
    linearizer: Linearizer, feature_inputs: Sequence[Float[Tensor, "samples ..."]], rank: int = 1
) -> Truth:
    """The truth of a network.

    Args:
        linearizer: of the target.
        feature_inputs: for each feature, inputs on which it alone is present.
        rank: dimension of each feature's subspace.
    """
    origin = linearizer.origin
    block = min(len(origin), rank + OVERSAMPLING)
    start = random_directions(block, len(origin), 0, 0).to(origin)
    subspaces, shares = [], []
    for inputs in feature_inputs:
        batch = linearizer(inputs.to(origin.device))
        directions, values = principal_directions(lambda on=batch: [on], rank, start, tolerance=1e-7)  # type: ignore[misc]
        subspaces.append(directions)
        shares.append(values.double().sum() / batch.trace.double().mean())
    return Truth(torch.stack(subspaces), torch.stack(shares).cpu().clamp(0, 1))
