"""Training steps on an accelerator beside this machine's processor: ``python tests/benchmarks/device.py``.

Value and gradient of the steepness on ``blocks.4.attn.W_K`` of a GPT-Neo of TinyStories-1M's shape, float32, metric
computed in the step. The share of the device's peak counts the two passes through the traced graph and the metric's
quadratic form against a large float32 matrix product on the same device.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(ROOT))

import torch
from rich.console import Console
from rich.table import Table

from eigen_lightning.curvature import KL, Linearizer
from eigen_lightning.curvature.static_graph import TracedProducts
from eigen_lightning.directions import Steepness
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import Transformer
from tests.benchmarks.transformer_step import directions, product_flops, tokens


def seconds_of(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Median wall time, after one round that is not counted."""
    taken = []
    for _ in range(repeats + 1):
        before = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - before)
    return sorted(taken[1:])[repeats // 2]


def step_on(device: str, model: str, count: int, n_tokens: int, repeats: int) -> dict[str, float]:
    """One step's time, its peak memory and the rate of its floating-point operations."""
    target = Transformer(model, ("blocks.4.attn.W_K",), "float32")
    target.load(RunFolder("unused"))
    target.to(torch.device(device))
    inputs = tokens(n_tokens).to(device)
    linearizer = Linearizer.prepare(target, KL(), inputs, n_directions=count)
    u = directions(count, target).to(device)
    metric = linearizer(inputs).metric

    def work(known: torch.Tensor | None) -> Any:
        return linearizer(inputs, known).value_and_gradient(u, Steepness())

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    computed = seconds_of(lambda: work(None), device, repeats)
    known = seconds_of(lambda: work(metric), device, repeats)
    assert isinstance(linearizer.products, TracedProducts)
    assert metric is not None
    a_direction = product_flops(linearizer.products.tangent) / linearizer.products.rows
    return {
        "computed": computed,
        "kept": known,
        "peak GiB": 0.0 if device == "cpu" else torch.cuda.max_memory_allocated() / 2**30,
        "flop/s": count * 2 * (a_direction + n_tokens * 2 * metric.shape[-1] ** 2) / known,
    }


def matrix_product_rate(device: str) -> float:
    """Floating-point operations a second of a large float32 product."""
    size = 8192 if device != "cpu" else 1024
    square = torch.randn(size, size, device=device)
    return 2 * size**3 / seconds_of(lambda: square @ square, device, 5)


def main() -> None:
    """Measure, print one table, write JSON."""
    assets = Path(os.environ.get("EIGEN_LIGHTNING_ASSETS", ROOT.parent / "shared" / "assets"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(assets / "gpt-neo-tinystories"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, default=ROOT / "runs" / "device.json")
    parser.add_argument("--cases", nargs="+", default=["10x128", "64x128", "64x2048", "256x2048", "1024x512"])
    options = parser.parse_args()
    console = Console(width=110)
    name = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    peak = matrix_product_rate(options.device)
    console.print(f"{name}: {peak / 1e12:.1f} TFLOP/s in a float32 product; CPU: {torch.get_num_threads()} threads")
    table = Table("K x tokens", "ms", "metric kept, ms", "tokens/s", "peak GiB", "of peak", "CPU, ms", "times faster")
    rows = {}
    for case in options.cases:
        count, n_tokens = map(int, case.split("x"))
        fast = step_on(options.device, options.model, count, n_tokens, 10)
        slow = step_on("cpu", options.model, count, n_tokens, 1)
        rows[case] = {options.device: fast, "cpu": slow}
        cells = [1e3 * fast["computed"], 1e3 * fast["kept"], n_tokens / fast["kept"], fast["peak GiB"]]
        cells += [fast["flop/s"] / peak, 1e3 * slow["kept"], slow["kept"] / fast["kept"]]
        console.print(f"{case}: {rows[case]}")
        table.add_row(case, *(f"{cell:.3g}" for cell in cells))
    console.print(table)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"device": name, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
