"""Steps of directions held as factors over whole models: ``python tests/benchmarks/factored.py``.

One step is value and gradient of the coverage, the metric computed in it, and the step of one factor.
``tinystories``: all attention and MLP matrices of the GPT-Neo stand-in, K = 1024, 16 windows of 16 tokens; an epoch of
500 windows is 32 such steps. ``gpt2``: the same matrices of GPT-2 small's shape with random weights, 64 tokens.
"""

import argparse
import os
import resource
import tempfile
import time
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

from eigen_lightning.curvature import KL, Chunk, Linearizer, TraceNormalization
from eigen_lightning.curvature.factored_products import FactoredLinearizer
from eigen_lightning.directions import Coverage
from eigen_lightning.directions.factored_ascent import free_step
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import Transformer

MATRICES = ("blocks.*.attn.W_*", "blocks.*.mlp.W_*")


def gpt2_small(folder: Path, tokenizer: Path) -> Path:
    """A GPT-2 small of random weights as a Hugging Face folder."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def step(model: Path, count: int, windows: int, length: int, rows: int, device: str) -> dict[str, Any]:
    """Seconds and memory of one step after one that is not counted."""
    target = Transformer(str(model), MATRICES)
    target.load(RunFolder("unused"))
    target.to(torch.device(device))
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(5000, (windows, length), generator=generator).to(device)
    # Dense probes of so many parameters would not fit: the factored linearizer has its own.
    few = TraceNormalization(exact_up_to=0, probes=1)
    dense = Linearizer.prepare(target, KL(), inputs[:1], traces=few, chunk=Chunk(rows), n_directions=count)
    factored = FactoredLinearizer.prepare(dense, 1, inputs, n_probes=4)
    space = factored.coordinates
    u = space.random(count, 0, "benchmark").to(dense.origin)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    taken = 0.0
    for number in range(2):
        begun = time.perf_counter()
        gradient = factored(inputs).value_and_gradient(u, Coverage(2.0))[1]
        u = free_step(space, u, gradient, 0 if number == 0 else 1)
        if device != "cpu":
            torch.cuda.synchronize()
        taken = time.perf_counter() - begun
    on_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    peak = on_host if device == "cpu" else torch.cuda.max_memory_allocated() / 2**30
    numbers = target.space.size
    return {"P": numbers, "seconds": taken, "GiB": peak, "U dense, GiB": 4 * count * numbers / 2**30}


def main() -> None:
    """Measure and print one table."""
    assets = Path(os.environ.get("EIGEN_LIGHTNING_ASSETS", ROOT.parent / "shared" / "assets"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", default=["tinystories", "gpt2"])
    parser.add_argument("--directions", type=int, help="K; 1024 and 256 otherwise")
    parser.add_argument("--rows", type=int, default=16, help="directions at a time")
    options = parser.parse_args()
    table = Table("model", "K", "tokens", "P", "seconds a step", "peak GiB", "U dense, GiB", title=options.device)
    with tempfile.TemporaryDirectory() as root:
        for name in options.only:
            small = name == "tinystories"
            model = assets / "gpt-neo-tinystories" if small else gpt2_small(Path(root), assets / "gpt2-tokenizer")
            count = options.directions or (1024 if small else 256)
            windows = 16 if small else 4
            row = step(model, count, windows, 16, options.rows, options.device)
            numbers = [f"{row['P'] / 1e6:.2f} M", *(f"{row[key]:.3g}" for key in ("seconds", "GiB", "U dense, GiB"))]
            table.add_row(name, str(count), str(windows * 16), *numbers)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
