"""One process against two and four, over seeds: ``python tests/benchmarks/parity.py --seeds 20``.

Shipped configurations, the transformer with fewer windows. The largest difference of U is printed for every system and
number of processes; rows are compared as they are stored, so that another order or sign would count.
"""

import argparse
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(ROOT))

import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from tests.processes import CommandProcess

BOUND = 1e-6


def systems(assets: Path) -> dict[str, list[str]]:
    """Arguments of ``fit`` by system; the transformer where its model and text are on this machine."""
    model, text = assets / "gpt-neo-tinystories", assets / "tinystories" / "train.txt"
    of_text = ["--config", str(ROOT / "configs" / "tinystories.yaml")]
    of_text += [f"--model.target.name={model}", f"--data.source={text}", "--data.n_sequences=64"]
    of_text += ["--data.n_heldout_sequences=16", "--trainer.max_epochs=2", "--model.start.steps=5"]
    of_text += ["--model.start.samples=64", "--trainer.callbacks=[]"]
    toys = {name: ["--config", str(ROOT / "configs" / f"{name}.yaml")] for name in ("xor", "tms")}
    return toys | ({"tinystories": of_text} if model.is_dir() and text.is_file() else {})


def directions(arguments: list[str], seed: int, ranks: int, folder: Path) -> np.ndarray[Any, Any]:
    """U of one run; a target that another run has trained may lie in the folder."""
    more = [f"--seed_everything={seed}", "--run_dir", str(folder), "--quiet", "true", "--report", "false"]
    CommandProcess(["fit", *arguments, *more], folder.with_suffix(".log"), ranks).succeed()
    return load_file(folder / "directions.safetensors")["U"]


def main() -> None:
    """Run, print the table, exit with 1 where a difference is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first_seed", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], help="compared with one")
    parser.add_argument("--only", nargs="+", help="of xor, tms, tinystories")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    console, worst = Console(width=100), 0.0
    table = Table("system", *(f"{ranks} processes" for ranks in options.processes), "seeds")
    assets = Path(os.environ.get("EIGEN_LIGHTNING_ASSETS", ROOT.parent / "shared" / "assets"))
    for name, arguments in systems(assets).items():
        if options.only and name not in options.only:
            continue
        largest = dict.fromkeys(options.processes, 0.0)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            with tempfile.TemporaryDirectory() as root:
                alone = directions(arguments, seed, 1, Path(root) / "one")
                for ranks in options.processes:
                    folder = Path(root) / f"of {ranks}"
                    folder.mkdir()
                    trained = Path(root) / "one" / "target.safetensors"
                    if trained.exists():
                        shutil.copy(trained, folder)
                    difference = float(np.abs(alone - directions(arguments, seed, ranks, folder)).max())
                    largest[ranks] = max(largest[ranks], difference)
                    console.print(f"{name}, seed {seed}, {ranks} processes: {difference:.1e}")
        table.add_row(name, *(f"{value:.1e}" for value in largest.values()), str(options.seeds))
        worst = max(worst, *largest.values())
    console.print(table)
    if worst > BOUND:
        raise SystemExit(f"expected differences of at most {BOUND:g}, got {worst:.1e}")


if __name__ == "__main__":
    main()
