"""Scale freedom: each sample's curvature divided by a power of its trace."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.run.errors import UserError


@dataclass(frozen=True)
class TraceNormalization:
    """How a sample's curvature is divided: ``d / (tau^(1 - power) * max(trace, floor)^power)``.

    tau is the mean trace over the samples of the start, which makes steepness, interference weight and learning
    rates mean the same on a network of any scale, whatever the power. With the objective's exponent q, a sample
    contributes ``t^a (d/t)^q`` with ``a = q (1 - power)``, t its trace raised to the floor (DESIGN section 2).

    The trace of a sample's Hessian is exact where ``exact_up_to`` passes over a batch are enough: one for each of the P
    parameters, or, where samples can be differentiated alone, two for each number that the network makes of a sample.
    Beyond, it is estimated as
    ``P * mean_m d2D(x, v_m)`` over ``probes`` fixed random orthonormal directions v_m. The estimate is unbiased; for
    a Hessian of effective rank r = trace^2 / ||H||_F^2 its relative standard deviation is about
    ``sqrt(2 / (probes * r))``: at most 18 % for 64 probes (r = 1).

    Attributes:
        power: 0 (a common scale alone) to 1 (each sample counts by its relative curvature).
        floor_quantile: traces are raised to this quantile of the positive ones, so that samples on which nothing
            happens are not blown up to the level of the others.
        probes: random directions where the trace is estimated.
        exact_up_to: passes over a batch that an exact trace may cost.
    """

    power: float = 0.0
    floor_quantile: float = 0.25
    probes: int = 64
    exact_up_to: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1:
            raise UserError(f"expected normalization.power in [0, 1], got {self.power}")
        if not 0 <= self.floor_quantile < 1:
            raise UserError(f"expected normalization.floor_quantile in [0, 1), got {self.floor_quantile}")
        if self.probes < 1:
            raise UserError(f"expected normalization.probes of at least 1, got {self.probes}")

    def probe_directions(self, size: int, like: Tensor, seed: int, exact: bool = False) -> Float[Tensor, "m P"]:
        """The directions whose curvatures sum to the trace, up to the factor P/m; the identity where m is P.

        Args:
            size: P.
            like: a tensor of their dtype and device.
            seed: of random ones.
            exact: whether the trace is had exactly in another way; there is no probe then.
        """
        if exact:
            return like.new_zeros(0, size)
        if size <= max(self.exact_up_to, self.probes):
            return torch.eye(size, dtype=like.dtype, device=like.device)
        generator = torch.Generator().manual_seed(seed)
        probes = torch.randn(size, self.probes, generator=generator, dtype=torch.float64)
        return torch.linalg.qr(probes)[0].T.to(like)


@dataclass(frozen=True)
class Scale:
    """A fitted normalization: three numbers that go into the checkpoint.

    Attributes:
        power: as configured.
        floor: the least trace divided by.
        mean: tau.
    """

    power: float
    floor: float
    mean: float

    @classmethod
    def fit(cls, normalization: TraceNormalization, traces: Float[Tensor, " n"]) -> "Scale":
        """From the traces of the start's samples.

        Raises:
            UserError: where all are zero: no chosen parameter moves the output on any sample; or one is not finite.
        """
        if not traces.isfinite().all():
            raise UserError(
                f"expected finite curvature, got {int((~traces.isfinite()).sum())} of {len(traces)} samples without: "
                "check the target's weights and dtype"
            )
        positive = traces[traces > 0]
        if not len(positive):
            raise UserError(
                f"expected parameters that move the outputs, got zero curvature on all of {len(traces)} samples: "
                "choose other `parameters`, or samples that reach them"
            )
        # torch.quantile refuses inputs of more than 2^24 elements; kthvalue does not.
        rank = 1 + int(normalization.floor_quantile * (len(positive) - 1))
        floor = float(positive.kthvalue(rank).values)
        return cls(normalization.power, floor, float(traces.double().mean()))
