"""The directions that learned ones are compared with: random, principal, and, where the truth is known, the oracle."""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.curvature import Curvature, CurvatureOnBatch
from eigen_lightning.seeding import derive_seed
from eigen_lightning.waiting import Waiting

OVERSAMPLING = 8


def random_directions(n_directions: int, size: int, seed: int, draw: int) -> Float[Tensor, "K P"]:
    """Independent random unit directions, float64, reproducible from the seed and the number of the draw."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "random control", draw))
    rows = torch.randn(n_directions, size, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=-1)


def principal_directions(
    batches: Callable[[], Iterable[CurvatureOnBatch]],
    n_directions: int,
    start: Float[Tensor, "m P"],
    rows: int,
    reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    tolerance: float = 1e-3,
    max_sweeps: int = 50,
) -> tuple[Float[Tensor, "K P"], Float[Tensor, " K"]]:
    """Top eigenvectors and eigenvalues of the mean Hessian, by subspace iteration on Hessian-vector products.

    The Hessian itself is never formed: memory is O(m P). Each sweep over the samples ends in a Rayleigh-Ritz step.

    Args:
        batches: called once a sweep; d2D on each batch of samples, all of one size.
        n_directions: K, at most m.
        start: m >= K rows to begin with, a few more than K speed convergence up.
        rows: how many directions are evaluated at a time.
        reduce: mean over ranks.
        tolerance: stop when the sum of the K eigenvalues grows by less than this share of itself.
        max_sweeps: stop then in any case.

    Returns:
        Unit eigenvectors, largest eigenvalue first, and the eigenvalues.

    Source: Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 2011, algorithm 4.4.
    """
    basis = torch.linalg.qr(start.T)[0].T
    captured = 0.0
    vectors, values = basis, basis.new_zeros(len(basis))
    with Waiting("Principal directions for comparison, sweep", max_sweeps) as waiting:
        for sweep in range(max_sweeps):
            waiting.reach(sweep)
            product = reduce(mean_hessian_product(batches(), basis, rows))
            small = (basis.double() @ product.double().T + product.double() @ basis.double().T) / 2
            eigenvalues, rotation = torch.linalg.eigh(small)
            vectors = rotation.flip(1).T.to(basis) @ basis
            values = eigenvalues.flip(0).to(basis)
            previous, captured = captured, float(values[:n_directions].sum())
            if len(basis) == basis.shape[1] or captured - previous <= tolerance * captured:
                break
            basis = torch.linalg.qr(product.T)[0].T
    return torch.nn.functional.normalize(vectors[:n_directions], dim=-1), values[:n_directions]


def mean_hessian_product(
    batches: Iterable[CurvatureOnBatch], directions: Float[Tensor, "m P"], rows: int
) -> Float[Tensor, "m P"]:
    """``H u`` of each direction, H the mean over samples: half the gradient of the mean of ``u^T H u``."""
    total, count = torch.zeros_like(directions), 0
    for evaluate in batches:
        parts = []
        for part in directions.split(rows):
            part = part.detach().requires_grad_()
            with torch.enable_grad():
                mean = evaluate(part).flatten(1).mean(1).sum()
                parts.append(torch.autograd.grad(mean, part)[0] / 2)
        total += torch.cat(parts)
        count += 1
    return total / count


def oracle_directions(
    curvature: Curvature, feature_inputs: Sequence[Float[Tensor, "samples ..."]], like: Tensor
) -> Float[Tensor, "features P"]:
    """The true direction of each feature: top eigenvector of the mean Hessian over samples with that feature alone.

    Args:
        curvature: of the target.
        feature_inputs: for each feature, inputs on which it alone is present.
        like: a tensor of the dtype and device to work in.
    """
    size = curvature.origin.numel()
    rows = min(size, 1 + OVERSAMPLING)
    start = random_directions(rows, size, 0, 0).to(like)
    found = []
    for inputs in feature_inputs:
        evaluate = curvature.at(inputs.to(like), rows)
        found.append(principal_directions(lambda on=evaluate: [on], 1, start, rows, tolerance=1e-7)[0])  # type: ignore[misc]
    return torch.cat(found)
