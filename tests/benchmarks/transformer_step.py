"""One training step (value and gradient of the steepness) on a transformer, by every route."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from eigen_lightning.curvature import KL, Curvature, CurvatureOnBatch, GaussNewton, MetricCache, Nested
from eigen_lightning.curvature.losses import steepness
from eigen_lightning.learning.memory import rows_for
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import Transformer
from tests.benchmarks.timing import interleaved, once, peak_growth

CONTEXT = 16


def target_of(folder: str, *parameters: str, dtype: str = "float32") -> Transformer:
    """The benchmark's model with these parameters chosen."""
    target = Transformer(folder, parameters or ("blocks.4.attn.W_K",), dtype)  # type: ignore[arg-type]
    target.load(RunFolder("unused"))
    return target


def tokens(count: int, vocabulary: int = 7000) -> Tensor:
    """A batch of that many tokens in windows of 16."""
    return torch.randint(vocabulary, (count // CONTEXT, CONTEXT), generator=torch.Generator().manual_seed(1))


def directions(count: int, target: Transformer) -> Tensor:
    """Unit rows."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(count, target.space.size, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=-1).to(next(iter(target.weights.values())).dtype)


def step(prepare: Callable[[], CurvatureOnBatch], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of the steepness of any number of directions, a chunk at a time."""
    evaluate = prepare()
    value, gradient = torch.zeros(()), []
    for part in rows.split(evaluate.rows):
        part = part.detach().requires_grad_()
        each = steepness(evaluate(part))
        gradient.append(torch.autograd.grad(each, part)[0])
        value = value + each.detach()
    return value, torch.cat(gradient)


def routes(target: Transformer, inputs: Tensor) -> dict[str, Callable[[int], Callable[[], CurvatureOnBatch]]]:
    """How each route prepares a batch, by name: from a number of directions to what a step prepares."""
    identities = torch.arange(len(inputs))
    nested, logits = Nested(target, KL()), GaussNewton(target, KL(), readout="off")
    computed, given = GaussNewton(target, KL()), GaussNewton(target, KL(), cache=MetricCache())
    given.at(inputs, 1, identities, keep=True)

    def prepared(curvature: Curvature, **kwargs: Any) -> Callable[[int], Callable[[], CurvatureOnBatch]]:
        fit = rows_for(curvature, inputs, None)
        return lambda count: lambda: curvature.at(inputs, min(fit, count), **kwargs)

    return {
        "nested": lambda count: lambda: nested.at(inputs, min(2, count)),
        "logits": prepared(logits),
        "metric computed": prepared(computed),
        "metric given": prepared(given, sample_id=identities),
    }


def compare(folder: str, n_tokens: int, counts: list[int], repeats: int) -> list[dict[str, Any]]:
    """Times of one step by route and K, and how far float32 with the metric is from nested products in float64.

    Nested products and the logits are measured on at most 2 and 8 directions and scaled to K, which flatters neither:
    both take time in proportion to K.
    """
    target, inputs = target_of(folder), tokens(n_tokens)
    by_route = routes(target, inputs)
    precise = target_of(folder, dtype="float64")
    exact = step(lambda: Nested(precise, KL()).at(inputs, 2), directions(2, precise))
    rows = []
    for count in counts:
        measured = {"nested": min(2, count), "logits": min(8, count), "metric computed": count, "metric given": count}
        variants = {
            name: (lambda prepare=by_route[name](size), u=directions(size, target): step(prepare, u))
            for name, size in measured.items()
        }
        seconds = interleaved(variants, repeats)
        scaled = {name: seconds[name] * count / measured[name] for name in measured}
        ours = step(by_route["metric given"](2), directions(2, target))
        rows.append(
            {
                "tokens": n_tokens,
                "K": count,
                "seconds": scaled,
                "times faster than nested": {name: scaled["nested"] / scaled[name] for name in scaled},
                "value error": float((ours[0] - exact[0]).abs() / exact[0].abs()),
                "gradient error": float((ours[1] - exact[1]).norm() / exact[1].norm()),
            }
        )
    return rows


def agreement_in_float64(folder: str) -> dict[str, float]:
    """Relative difference of value and gradient between nested products and the metric in float64."""
    target, inputs = target_of(folder, dtype="float64"), tokens(32)
    by_route, few = routes(target, inputs), directions(2, target_of(folder, dtype="float64"))
    exact, ours = (step(by_route[name](2), few) for name in ("nested", "metric given"))
    return {
        "value": float((ours[0] - exact[0]).abs() / exact[0].abs()),
        "gradient": float((ours[1] - exact[1]).norm() / exact[1].norm()),
    }


def growth(folder: str) -> list[dict[str, Any]]:
    """Seconds and peak memory of a step with the metric given, against K, tokens and P."""
    key = "blocks.4.attn.W_K"
    cases = [(64, 128, (key,)), (256, 128, (key,)), (1024, 128, (key,)), (64, 512, (key,)), (64, 2048, (key,))]
    cases += [
        (64, 128, ("blocks.4.attn.*",)),
        (64, 128, ("blocks.4.*",)),
        (64, 128, ("blocks.*.mlp.*",)),
    ]
    rows = []
    for count, n_tokens, parameters in cases:
        target, inputs = target_of(folder, *parameters), tokens(n_tokens)
        prepare, u = routes(target, inputs)["metric given"](count), directions(count, target)
        step(prepare, u[:1])
        step(prepare, u)
        seconds = once(lambda prepare=prepare, u=u: step(prepare, u))
        peak = peak_growth(lambda prepare=prepare, u=u: step(prepare, u))
        rows.append(
            {
                "K": count,
                "tokens": n_tokens,
                "parameters": ", ".join(parameters),
                "P": target.space.size,
                "seconds": seconds,
                "ms a direction": 1e3 * seconds / count,
                "peak MiB": peak,
            }
        )
    return rows


def distance_to_limit(folder: str, count: int = 256, n_tokens: int = 128) -> dict[str, float]:
    """Floating-point operations a step needs, at the rate of a large matrix product, against the time it takes."""
    target, inputs = target_of(folder), tokens(n_tokens)
    identities = torch.arange(len(inputs))
    curvature = GaussNewton(target, KL(), cache=MetricCache())
    curvature.at(inputs, 1, identities, keep=True)
    fit = rows_for(curvature, inputs, None)
    u = directions(count, target)
    square = torch.randn(1024, 1024)
    seconds = interleaved(
        {
            "step": lambda: step(lambda: curvature.at(inputs, fit, identities), u),
            "product": lambda: [square @ square for _ in range(8)],
        },
        5,
    )
    rate = 8 * 2 * 1024**3 / seconds["product"]
    (_, tangent), *_ = [pair for key, pair in curvature.linearizer._traced.items() if key[0] == fit]
    width = target.readout.weight.shape[1]  # type: ignore[union-attr]
    # The tangent pass, the cotangent pass of the same cost, and the metric's quadratic form both ways.
    needed = count * 2 * (_product_flops(tangent) / fit + n_tokens * 2 * width**2)
    return {
        "needed GFLOP": needed / 1e9,
        "GFLOP/s of a matrix product": rate / 1e9,
        "seconds at that rate": needed / rate,
        "seconds taken": seconds["step"],
        "times the limit": seconds["step"] * rate / needed,
    }


def _product_flops(graph: fx.GraphModule) -> float:
    total = 0.0
    for node in graph.graph.nodes:
        if node.target in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            left, right = map(_shape, node.args)
            inner = left[-1] if left else right[-2]
            total += 2 * math.prod(_shape(node)) * inner
    return total


def _shape(node: fx.Node) -> tuple[int, ...]:
    meta = node.meta.get("val", node.meta.get("tensor_meta"))
    return () if meta is None else tuple(meta.shape)
