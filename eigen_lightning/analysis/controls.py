"""The directions that learned ones are compared with: random and principal ones; for the true ones see ``truth``."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.curvature import LinearizedBatch
from eigen_lightning.directions.dense import random_rows
from eigen_lightning.directions.losses import Steepness
from eigen_lightning.run.waiting import Waiting

OVERSAMPLING = 8

DENSE_UP_TO = 512
"""P up to which the control's eigenvectors are exact: all of the Hessian is had in one sweep."""

NOISE = 1e-5
"""Share of the products' norm below which a remainder of theirs is rounding."""

WIDEST = 5
"""How many times K rows a Krylov space may have."""


def random_directions(n_directions: int, size: int, seed: int, draw: int) -> Float[Tensor, "K P"]:
    """Independent random unit directions, float64, reproducible from the seed and the number of the draw."""
    return random_rows(n_directions, size, seed, "random control", draw)


def principal_directions(
    passes: Callable[[], Iterable[LinearizedBatch]],
    n_directions: int,
    start: Float[Tensor, "m P"],
    reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    tolerance: float = 1e-3,
    max_sweeps: int = 100,
) -> tuple[Float[Tensor, "K P"], Float[Tensor, " K"]]:
    """Top eigenvectors and eigenvalues of the mean Hessian, by block Lanczos on Hessian-vector products.

    The Hessian itself is never formed. Each sweep over the samples multiplies one block of m rows by it and ends in a
    Rayleigh-Ritz step on all blocks so far: a block a third of K wide takes a fifth of the products that subspace
    iteration would. Memory is O(K P): beyond ``WIDEST`` times K rows the best of them go on alone.

    Args:
        passes: called once a sweep: batches of one size; d2D counts in their scale.
        n_directions: K.
        start: m rows to begin with.
        reduce: mean over ranks.
        tolerance: stop when K more products raise the sum of the K eigenvalues by less than this share of itself.
        max_sweeps: stop then in any case.

    Returns:
        Unit eigenvectors, largest eigenvalue first, and the eigenvalues.

    Source: Musco and Musco, "Randomized block Krylov methods for stronger and faster approximate singular value
    decomposition", NeurIPS 2015, algorithm 2; thick restart as in Wu and Simon, SIAM J. Matrix Anal. Appl. 2000.
    """
    block = torch.linalg.qr(start.T)[0].T
    basis, products = block[:0], block[:0]
    # How far back the sum of eigenvalues is compared: as many sweeps as multiply K rows.
    back = -(-n_directions // len(block))
    captured: list[float] = []
    with Waiting("Principal directions for comparison, sweep", max_sweeps) as waiting:
        for sweep in range(max_sweeps):
            waiting.reach(sweep)
            basis = torch.cat([basis, block])
            products = torch.cat([products, reduce(mean_hessian_product(passes(), block))])
            eigenvalues, rotation = torch.linalg.eigh(_symmetric(basis, products))
            values = eigenvalues.flip(0)[:n_directions].to(basis)
            captured.append(float(values.sum()))
            if len(basis) == basis.shape[1]:
                break
            enough = sweep >= back and len(basis) > n_directions
            if enough and captured[-1] - captured[-1 - back] <= tolerance * captured[-1]:
                break
            block = _new_directions(products[-len(block) :], basis)
            if not len(block):
                break
            if len(basis) >= WIDEST * n_directions + len(start):
                kept = rotation.flip(1)[:, : 2 * n_directions].T.to(basis)
                basis, products = kept @ basis, kept @ products
                rotation = torch.eye(len(basis), dtype=rotation.dtype, device=rotation.device).flip(1)
    vectors = rotation.flip(1).T[:n_directions].to(basis) @ basis
    return torch.nn.functional.normalize(vectors, dim=-1), values


def _symmetric(basis: Float[Tensor, "b P"], products: Float[Tensor, "b P"]) -> Float[Tensor, "b b"]:
    """``Q H Q^T``, float64."""
    small = basis.double() @ products.double().T
    return (small + small.T) / 2


def _new_directions(products: Float[Tensor, "m P"], basis: Float[Tensor, "b P"]) -> Float[Tensor, "n P"]:
    """Orthonormal rows that span what products add to a basis; none where they lie in it but for rounding.

    What is left of a product that lies in the basis is noise that no number of projections makes orthogonal: taken as
    a direction, it gave eigenvalues above the trace.
    """
    held, fresh = basis.double(), products.double()
    scale = fresh.norm()
    fresh = fresh - fresh @ held.T @ held
    _, values, right = torch.linalg.svd(fresh, full_matrices=False)
    fresh = right[values > NOISE * scale][: basis.shape[1] - len(basis)]
    # Twice, as the first time leaves the rounding of what it took away.
    for _ in range(2):
        fresh = torch.linalg.qr((fresh - fresh @ held.T @ held).T)[0].T
    return fresh.to(basis)


def mean_hessian_product(batches: Iterable[LinearizedBatch], directions: Float[Tensor, "m P"]) -> Float[Tensor, "m P"]:
    """``H u`` of each direction, H the mean over samples: half the gradient of the mean of ``u^T H u``."""
    total, count = torch.zeros_like(directions), 0
    for batch in batches:
        total += batch.value_and_gradient(directions, Steepness(1.0))[1] / 2
        count += 1
    return total / count
