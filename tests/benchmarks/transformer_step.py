"""One training step (value and gradient of the steepness) on a transformer, by every route."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, fx

from eigen_lightning.curvature import KL, Chunk, LinearizedBatch, Linearizer, SampleCache
from eigen_lightning.curvature.static_graph import TracedProducts
from eigen_lightning.data.stream import Batch
from eigen_lightning.directions import Steepness
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import Transformer
from tests.benchmarks.timing import interleaved, once, peak_growth

CONTEXT = 16
NESTED_DIRECTIONS = 2
LOGITS_DIRECTIONS = 8

Prepared = Callable[[], LinearizedBatch]


def target_of(folder: str, *parameters: str, dtype: Literal["float32", "float64"] = "float32") -> Transformer:
    """The benchmark's model with these parameters chosen."""
    target = Transformer(folder, parameters or ("blocks.4.attn.W_K",), dtype)
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


def step(prepared: Prepared, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of the steepness, linearization included."""
    d, gradient = prepared().value_and_gradient(rows, Steepness())
    return Steepness().value(d), gradient


class _Windows:
    """One batch as a set whose samples return every epoch."""

    name, first_id = "benchmark", 0

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, epoch: int, indices: Tensor) -> Batch:
        return Batch(self.inputs[indices], indices)


def by_metric(target: Transformer, inputs: Tensor, count: int, cached: bool) -> Prepared:
    """A batch linearized with the pulled-back metric, computed in the step or taken from a run's cache."""
    linearizer = Linearizer.prepare(target, KL(), inputs, n_directions=count)
    if not cached:
        return lambda: linearizer(inputs)
    cache, indices = SampleCache(linearizer, _Windows(inputs), len(inputs), inputs.device), torch.arange(len(inputs))
    return lambda: cache.linearize(inputs, indices)


def through_logits(target: Transformer, inputs: Tensor, count: int) -> Prepared:
    """A batch whose tangents reach the logits."""
    linearizer = Linearizer.prepare(target, KL(), inputs, readout=False, n_directions=count)
    return lambda: linearizer(inputs)


def by_nested(target: Transformer, inputs: Tensor) -> Prepared:
    """The reference, linearized once: what it tries out each time is not counted."""
    chunk = Chunk(NESTED_DIRECTIONS)
    batch = Linearizer.prepare(target, KL(), inputs, "nested", chunk=chunk)(inputs)
    return lambda: batch


def differences(ours: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Relative differences of value and gradient."""
    return {
        "value": float((ours[0] - exact[0]).abs() / exact[0].abs()),
        "gradient": float((ours[1] - exact[1]).norm() / exact[1].norm()),
    }


def compare(folder: str, n_tokens: int, counts: list[int], repeats: int) -> list[dict[str, Any]]:
    """Times of one step by route and K, and how far float32 with the metric is from nested products in float64.

    Nested products and the logits are measured on at most 2 and 8 directions and scaled to K, which flatters neither:
    both take time in proportion to K.
    """
    target, inputs = target_of(folder), tokens(n_tokens)
    precise = target_of(folder, dtype="float64")
    exact = step(by_nested(precise, inputs), directions(NESTED_DIRECTIONS, precise))
    rows = []
    for count in counts:
        few = min(LOGITS_DIRECTIONS, count)
        measured = {"nested": NESTED_DIRECTIONS, "logits": few, "metric computed": count, "metric kept": count}
        prepared = {
            "nested": by_nested(target, inputs),
            "logits": through_logits(target, inputs, few),
            "metric computed": by_metric(target, inputs, count, cached=False),
            "metric kept": by_metric(target, inputs, count, cached=True),
        }
        variants = {
            name: lambda at=prepared[name], u=directions(measured[name], target): step(at, u) for name in measured
        }
        seconds = interleaved(variants, repeats)
        scaled = {name: seconds[name] * count / measured[name] for name in measured}
        rows.append(
            {
                "tokens": n_tokens,
                "K": count,
                "seconds": scaled,
                "times faster than nested": {name: scaled["nested"] / scaled[name] for name in scaled},
                "off by": differences(step(prepared["metric kept"], directions(NESTED_DIRECTIONS, target)), exact),
            }
        )
    return rows


def agreement_in_float64(folder: str) -> dict[str, float]:
    """Relative difference of value and gradient between nested products and the metric in float64."""
    target, inputs = target_of(folder, dtype="float64"), tokens(32)
    few = directions(NESTED_DIRECTIONS, target)
    return differences(step(by_metric(target, inputs, len(few), True), few), step(by_nested(target, inputs), few))


def growth(folder: str) -> list[dict[str, Any]]:
    """Seconds and peak memory of a step with the metric kept, against K, tokens and P."""
    key = "blocks.4.attn.W_K"
    cases = [(64, 128, key), (256, 128, key), (1024, 128, key), (64, 512, key), (64, 2048, key)]
    cases += [(64, 128, "blocks.4.attn.*"), (64, 128, "blocks.4.*"), (64, 128, "blocks.*.mlp.*")]
    rows = []
    for count, n_tokens, parameters in cases:
        target, inputs = target_of(folder, parameters), tokens(n_tokens)
        prepared, u = by_metric(target, inputs, count, cached=True), directions(count, target)
        step(prepared, u)
        seconds = once(lambda prepared=prepared, u=u: step(prepared, u))
        peak = peak_growth(lambda prepared=prepared, u=u: step(prepared, u))
        rows.append(
            {
                "K": count,
                "tokens": n_tokens,
                "parameters": parameters,
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
    linearizer = Linearizer.prepare(target, KL(), inputs, n_directions=count)
    metric = linearizer.metric(linearizer.at_origin(inputs))
    u = directions(count, target)
    square = torch.randn(1024, 1024)
    seconds = interleaved(
        {
            "step": lambda: step(lambda: linearizer(inputs, metric), u),
            "product": lambda: [square @ square for _ in range(8)],
        },
        5,
    )
    rate = 8 * 2 * 1024**3 / seconds["product"]
    assert isinstance(linearizer.products, TracedProducts)
    # The tangent pass, the cotangent pass of the same cost, and the metric's quadratic form both ways.
    a_direction = product_flops(linearizer.products.tangent) / linearizer.products.rows
    needed = count * 2 * (a_direction + n_tokens * 2 * metric.shape[-1] ** 2)
    return {
        "needed GFLOP": needed / 1e9,
        "GFLOP/s of a matrix product": rate / 1e9,
        "seconds at that rate": needed / rate,
        "seconds taken": seconds["step"],
        "times the limit": seconds["step"] * rate / needed,
    }


def product_flops(graph: fx.GraphModule) -> float:
    """Floating-point operations of the matrix products of a graph."""
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
