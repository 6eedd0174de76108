"""Steepness and interference of directions.

The two losses of sparse eigendecomposition (Chrisman, Bushnaq and Sharkey, "Identifying Sparsely Active Circuits
Through Local Loss Landscape Decomposition", 2025). ``d[k, s]`` is d2D of direction k on sample s.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

InterferenceForm = Literal["squared", "norm"]


def steepness(curvature: Float[Tensor, "K *samples"]) -> Float[Tensor, ""]:
    """``mean_s sum_k d[k, s]^2``, to be maximized; L1 of the paper. Unit: squared divergence per weight^4."""
    return curvature.square().sum() / curvature[0].numel()


def coactivation(curvature: Float[Tensor, "K *samples"]) -> Float[Tensor, "K K"]:
    """``C = (d^2)(d^2)^T``, summed over samples: all that interference needs to know of them."""
    squared = curvature.flatten(1).square()
    return squared @ squared.T


def cosines(directions: Float[Tensor, "K P"]) -> Float[Tensor, "K K"]:
    """``cos(u_k, u_l)`` of every pair; rows of any length."""
    unit = torch.nn.functional.normalize(directions, dim=-1)
    return unit @ unit.T


def squared_interference(coactivation: Float[Tensor, "K K"], cosine: Float[Tensor, "K K"]) -> Float[Tensor, ""]:
    """``sum_{k>l} C[k, l] cos^2(u_k, u_l)``.

    Equal to the squared Frobenius norm of ``d_k d_l cos(u_k, u_l)`` over samples and pairs, without the
    ``[samples, K, K]`` tensor: O(K^2 (samples + P)) time, O(K^2) memory.
    """
    return (coactivation * cosine.square()).tril(-1).sum()


def interference(
    coactivation: Float[Tensor, "K K"],
    cosine: Float[Tensor, "K K"],
    form: InterferenceForm,
    n_samples: int,
    n_input_elements: int,
) -> Float[Tensor, ""]:
    """Interference, to be minimized; L2 of the paper.

    Args:
        coactivation: ``C`` summed over all samples of all ranks.
        cosine: of each pair of directions.
        form: ``squared`` is the mean over samples of ``sum_{k>l} (d_k d_l cos)^2``, in the unit of steepness;
            ``norm`` is the published one: the Frobenius norm over samples and pairs, per input element.
        n_samples: samples in ``coactivation``.
        n_input_elements: numbers in the inputs these samples came from.
    """
    squared = squared_interference(coactivation, cosine)
    if form == "squared":
        return squared / n_samples
    # A bare square root has an infinite slope at 0, which orthogonal directions reach: there the gradient is 0.
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0) / n_input_elements


def interference_by_curvature(
    curvature: Float[Tensor, "K *samples"],
    coactivation: Float[Tensor, "K K"],
    cosine: Float[Tensor, "K K"],
    form: InterferenceForm,
    n_samples: int,
    n_input_elements: int,
    rows: slice = slice(None),
) -> Float[Tensor, "rows *samples"]:
    """The derivative of :func:`interference` by ``d[k, s]``: the cotangent that stage 2 sends back.

    Args:
        curvature: d of this rank's samples.
        coactivation: ``C`` over all ranks' samples.
        cosine: as in :func:`interference`.
        form: as in :func:`interference`.
        n_samples: as in :func:`interference`.
        n_input_elements: as in :func:`interference`.
        rows: the directions k by whose d it is wanted.
    """
    overlap = cosine.square().fill_diagonal_(0)[rows]
    flat = curvature.flatten(1)
    by_squared = 2 * flat[rows] * (overlap @ flat.square())
    if form == "squared":
        scale = torch.as_tensor(1 / n_samples)
    else:
        root = squared_interference(coactivation, cosine).sqrt()
        scale = torch.where(root > 0, 0.5 / (root * n_input_elements), 0.0)
    return (by_squared * scale).reshape(-1, *curvature.shape[1:])
