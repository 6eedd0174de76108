"""An order of directions in which those that act together stand together."""

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform


def clustered(similarity: Float[np.ndarray, "K K"]) -> Int[np.ndarray, " K"]:
    """Leaves of average-linkage clustering, turned so that neighbours are as similar as can be.

    Args:
        similarity: symmetric, in [0, 1], 1 on the diagonal.
    """
    if len(similarity) < 3:
        return np.arange(len(similarity))
    distance = 1 - np.clip(np.nan_to_num((similarity + similarity.T) / 2), 0, 1)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=len(distance) <= 200))
