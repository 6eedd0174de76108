"""How d2D of each direction is distributed over samples."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

DECADES = (-12, 8)
PER_DECADE = 5


def edges() -> Float[Tensor, " bins+1"]:
    """The borders of the bins: five to a decade from 1e-12 to 1e8, wide enough for any network in float32."""
    count = (DECADES[1] - DECADES[0]) * PER_DECADE + 1
    return torch.logspace(*DECADES, count, dtype=torch.float64)


class CurvatureHistogramMetric(Metric):
    """Counts samples by d2D, in bins of equal width in the logarithm; exact over batches and ranks.

    The first count is of samples below all bins (zero above all), the last of samples beyond them.

    Args:
        n_directions: K.
    """

    full_state_update = False
    higher_is_better = None

    counts: Tensor

    def __init__(self, n_directions: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(n_directions, len(edges()) + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, curvature: Float[Tensor, "K *samples"]) -> None:
        """Take in one batch."""
        flat = curvature.flatten(1)
        which = torch.bucketize(flat.double().contiguous(), edges().to(flat.device), right=True)
        self.counts.scatter_add_(1, which, torch.ones_like(which))

    def compute(self) -> Int[Tensor, "K bins+2"]:
        """The counts over all batches and ranks."""
        return self.counts
