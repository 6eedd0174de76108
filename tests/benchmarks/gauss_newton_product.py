"""The mean Gauss-Newton product with many directions on a transformer: ours against curvlinops."""

from typing import Any

import torch
from torch import nn

from eigen_lightning.analysis.controls import mean_hessian_product
from tests.benchmarks.timing import interleaved
from tests.benchmarks.transformer_step import by_metric, directions, target_of, tokens
from tests.gauss_newton_oracle import OracleProduct

MEASURED = 16


def compare(folder: str, n_tokens: int, counts: list[int], repeats: int) -> list[dict[str, Any]]:
    """Times of the product with K directions, and how far the results are apart in float32.

    curvlinops is measured on at most 16 directions and scaled to K: 8 at a time, as the logits of each are held.
    """
    target, inputs = target_of(folder), tokens(n_tokens)
    theirs = OracleProduct(target, nn.CrossEntropyLoss(), inputs)
    rows = []
    for count in counts:
        u, few = directions(count, target), min(count, MEASURED)
        kept, computed = (by_metric(target, inputs, count, cached=cached) for cached in (True, False))
        seconds = interleaved(
            {
                "curvlinops": lambda u=u, few=few: theirs(u[:few]),
                "metric computed": lambda u=u, at=computed: mean_hessian_product([at()], u),
                "metric kept": lambda u=u, at=kept: mean_hessian_product([at()], u),
            },
            repeats,
        )
        seconds["curvlinops"] *= count / few
        with torch.no_grad():
            ours, expected = mean_hessian_product([kept()], u)[:few], theirs(u[:few])
        rows.append(
            {
                "tokens": n_tokens,
                "K": count,
                "seconds": seconds,
                "times faster than curvlinops": {name: seconds["curvlinops"] / seconds[name] for name in seconds},
                "off by": float((ours - expected).norm() / expected.norm()),
            }
        )
    return rows
