"""Moments of curvature over samples, and the interference matrix made from them."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from eigen_lightning.directions.losses import coactivation, cosines, squared_interference


class CurvatureStatistics:
    """Moments of d2D over samples, in float64.

    No dataclass, as torchmetrics would squeeze the tensors in one.

    Attributes:
        mean: of d_k.
        maximum: of d_k.
        product: mean of d_k d_l.
        coactivation: mean of d_k^2 d_l^2.
        n_samples: how many samples.
    """

    def __init__(
        self,
        mean: Float[Tensor, " K"],
        maximum: Float[Tensor, " K"],
        product: Float[Tensor, "K K"],
        coactivation: Float[Tensor, "K K"],
        n_samples: int,
    ) -> None:
        self.mean, self.maximum, self.product, self.coactivation = mean, maximum, product, coactivation
        self.n_samples = n_samples

    @property
    def steepness(self) -> float:
        """``mean_s sum_k d[k, s]^2``."""
        return float(self.product.diagonal().sum())

    @property
    def coactivity(self) -> Float[Tensor, "K K"]:
        """``mean d_k d_l / sqrt(mean d_k^2 mean d_l^2)``: 1 for two directions steep on the same samples."""
        root = self.product.diagonal().clamp_min(torch.finfo(self.product.dtype).tiny).sqrt()
        return self.product / root[:, None] / root

    def interference(self, directions: Float[Tensor, "K P"]) -> float:
        """``mean_s sum_{k>l} (d_k d_l cos)^2``."""
        # Where U is split over devices, the whole of it is only to be had on the CPU.
        return float(squared_interference(self.coactivation.to(directions.device), cosines(directions.double())))

    def interference_matrix(self, directions: Float[Tensor, "K P"], normalized: bool = False) -> Float[Tensor, "K K"]:
        """Mean over samples of ``d_k d_l cos^2(u_k, u_l)``.

        Args:
            directions: U.
            normalized: divide by the geometric mean of the two diagonal entries: 1 on the diagonal.
        """
        matrix = self.product.to(directions.device) * cosines(directions.double()).square()
        if not normalized:
            return matrix
        root = matrix.diagonal().clamp_min(torch.finfo(matrix.dtype).tiny).sqrt()
        return matrix / root[:, None] / root


class CurvatureStatisticsMetric(Metric):
    """Collects :class:`CurvatureStatistics` over a stream, exactly the same on one rank and on many.

    Args:
        n_directions: K.
    """

    full_state_update = False
    higher_is_better = None

    total: Tensor
    maximum: Tensor
    product: Tensor
    coactivation: Tensor
    count: Tensor

    def __init__(self, n_directions: int) -> None:
        super().__init__()
        square = torch.zeros(n_directions, n_directions, dtype=torch.float64)
        self.add_state("total", square[0].clone(), dist_reduce_fx="sum")
        self.add_state("maximum", square[0].clone(), dist_reduce_fx="max")
        self.add_state("product", square.clone(), dist_reduce_fx="sum")
        self.add_state("coactivation", square.clone(), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, curvature: Float[Tensor, "K *samples"]) -> None:
        """Take in one batch."""
        flat = curvature.flatten(1).double()
        self.total += flat.sum(1)
        self.maximum = torch.maximum(self.maximum, flat.amax(1))
        self.product += flat @ flat.T
        self.coactivation += coactivation(flat)
        self.count += flat.shape[1]

    def compute(self) -> CurvatureStatistics:
        """The moments over all batches and ranks."""
        count = int(self.count)
        return CurvatureStatistics(
            self.total / count, self.maximum, self.product / count, self.coactivation / count, count
        )
