"""How well directions recover known features; nothing here changes under permutation or sign of their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MATCHED_ABOVE = 0.9


@dataclass(frozen=True)
class Recovery:
    """Directions against the true ones.

    Attributes:
        mcc: mean |cos| between true directions and those assigned to them one to one so that it is largest (mean
            correlation coefficient). Features without a partner, where there are fewer directions, count as 0.
        matched: features whose partner has a |cos| above 0.9.
        features: how many features there are.
        selectivity: mean over features of the share that the feature has in its partner's curvature over the samples
            with one feature alone.
        uniqueness: how many different features are the steepest of some direction, as a share of min(K, features).
        mmcs: mean over features of the largest |cos| of any direction (mean max cosine similarity).
        partner: for each feature the direction assigned to it, -1 where there is none.
        cosine: for each feature |cos| with its partner, 0 where there is none.
    """

    mcc: float
    matched: int
    features: int
    selectivity: float
    uniqueness: float
    mmcs: float
    partner: Int[Tensor, " features"]
    cosine: Float[Tensor, " features"]

    def assignment(self, feature_names: Sequence[str]) -> list[dict[str, Any]]:
        """For each feature its name, the direction assigned to it and |cos| with it; JSON-able."""
        rows = zip(feature_names, self.partner.tolist(), self.cosine.tolist(), strict=True)
        return [{"feature": name, "direction": partner, "cosine": cosine} for name, partner, cosine in rows]

    def scalars(self) -> dict[str, float]:
        """The numbers that go into the scorecard."""
        return {name: getattr(self, name) for name in ("mcc", "matched", "selectivity", "uniqueness", "mmcs")}


def assign(
    directions: Float[Tensor, "K P"], truth: Float[Tensor, "features P"]
) -> tuple[Int[Tensor, " features"], Float[Tensor, " features"]]:
    """The one-to-one assignment with the largest mean |cos|, by the Hungarian method.

    Returns:
        For each true direction its partner, -1 where there is none, and |cos| with it, 0 where there is none.
    """
    cosine = absolute_cosines(truth, directions)
    features, partners = linear_sum_assignment(-cosine.cpu().numpy())
    partner = torch.full((len(truth),), -1)
    partner[features] = torch.as_tensor(partners)
    found = torch.zeros(len(truth), dtype=torch.float64)
    found[features] = cosine.cpu()[features, partners]
    return partner, found


def absolute_cosines(a: Float[Tensor, "n P"], b: Float[Tensor, "m P"]) -> Float[Tensor, "n m"]:
    """|cos| of every pair, float64."""
    unit = [torch.nn.functional.normalize(rows.double(), dim=-1) for rows in (a, b)]
    return (unit[0] @ unit[1].T).abs().clamp_max(1)


def recovery(
    directions: Float[Tensor, "K P"], truth: Float[Tensor, "features P"], by_feature: Float[Tensor, "K features"]
) -> Recovery:
    """Judge directions by the true ones.

    Args:
        directions: U.
        truth: one direction a feature.
        by_feature: mean d2D of each direction over the samples with one feature alone.
    """
    partner, cosine = assign(directions, truth)
    has_partner = partner >= 0
    share = by_feature.double().cpu()
    share = share / share.sum(1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
    own = share[partner, torch.arange(len(truth))].where(has_partner, 0.0)
    # A dead direction would count as feature 0's.
    best = by_feature[by_feature.amax(1) > 0].argmax(1).unique()
    possible = min(by_feature.shape)
    return Recovery(
        mcc=float(cosine.mean()),
        matched=int((cosine > MATCHED_ABOVE).sum()),
        features=len(truth),
        selectivity=float(own.mean()),
        uniqueness=len(best) / possible,
        mmcs=float(absolute_cosines(truth, directions).amax(1).mean()),
        partner=partner,
        cosine=cosine,
    )
