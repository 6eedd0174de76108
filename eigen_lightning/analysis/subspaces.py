"""Recovery of features that are subspaces: rows are grouped by the feature they respond to, and compared by angles."""

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.analysis.evaluation import orthonormal_basis
from eigen_lightning.analysis.recovery import MATCHED_ABOVE, Recovery, recovery
from eigen_lightning.analysis.truth import Truth


def recovery_of(directions: Float[Tensor, "K P"], truth: Truth, by_feature: Float[Tensor, "K features"]) -> Recovery:
    """Judge directions by a truth of any rank: one to one where a feature is a direction, else by subspaces.

    Args:
        directions: U.
        truth: the true directions.
        by_feature: mean d2D of each direction over the samples with one feature alone.
    """
    if truth.rank == 1:
        return recovery(directions, truth.rows, by_feature)
    return subspace_recovery(directions, truth.subspaces, by_feature)


def subspace_recovery(
    directions: Float[Tensor, "K P"],
    subspaces: Float[Tensor, "features rank P"],
    by_feature: Float[Tensor, "K features"],
) -> Recovery:
    """Judge directions by the subspaces of features.

    A direction belongs to the feature that has the largest share of its curvature. The span of a feature's directions,
    of which the steepest count up to the rank, is compared with the feature's subspace: the squared cosines of their
    principal angles, summed, out of as many as directions could be there (``K // features``, at most the rank, at least
    one). Features without directions count as 0.

    Returns:
        With these meanings: ``cosine`` is the square root of that mean squared cosine, ``mcc`` its mean over features,
        ``matched`` the features where it is above 0.9; ``selectivity`` the mean over live directions of the share of
        their own feature (their purity); ``mmcs`` the mean over features of the largest projection of any direction;
        ``partner`` each feature's steepest direction.

    Source: Björck and Golub, "Numerical methods for computing angles between linear subspaces", 1973.
    """
    features, rank, _ = subspaces.shape
    truth = subspaces.double().cpu()
    unit = torch.nn.functional.normalize(directions.double().cpu(), dim=-1)
    share = by_feature.double().cpu()
    alive = share.amax(1) > 0
    purity, owner = (share / share.sum(1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)).max(1)
    possible = min(rank, max(1, len(directions) // features))
    partner = torch.full((features,), -1)
    cosine = torch.zeros(features, dtype=torch.float64)
    for feature in range(features):
        own = ((owner == feature) & alive).nonzero().flatten()
        own = own[share[own, feature].argsort(descending=True, stable=True)][:possible]
        if len(own):
            partner[feature] = own[0]
            basis = orthonormal_basis(unit[own])
            cosine[feature] = ((truth[feature] @ basis.T).square().sum() / possible).clamp(max=1).sqrt()
    projections = torch.stack([(unit @ subspace.T).norm(dim=1).amax() for subspace in truth])
    return Recovery(
        mcc=float(cosine.mean()),
        matched=int((cosine > MATCHED_ABOVE).sum()),
        features=features,
        selectivity=float(purity[alive].mean()) if alive.any() else 0.0,
        uniqueness=len(owner[alive].unique()) / min(len(directions), features),
        mmcs=float(projections.clamp(max=1).mean()),
        partner=partner,
        cosine=cosine,
    )
