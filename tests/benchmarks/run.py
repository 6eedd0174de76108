"""``make bench``: time ours against nested products and curvlinops. Each ratio is measured in one run on one thread."""

import argparse
import json
import logging
import os
import warnings
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

from tests.benchmarks import gauss_newton_product, startup, toy_run, transformer_step


def main() -> None:
    """Measure, print tables, write JSON."""
    assets = Path(os.environ.get("EIGEN_LIGHTNING_ASSETS", ROOT.parent / "shared" / "assets"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default=str(assets / "gpt-neo-tinystories"), help="a GPT-Neo of TinyStories-1M's shape"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "runs" / "benchmarks.json", help="where the figures go")
    parser.add_argument("--directions", type=int, nargs="+", default=[10, 64], metavar="K", help="such as 256 and 1024")
    parser.add_argument("--tokens", type=int, nargs="+", default=[128], help="tokens of a batch")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is printed")
    parser.add_argument("--toys", action=argparse.BooleanOptionalAction, default=True, help="time the toys")
    parser.add_argument("--scaling", action="store_true", help="time and memory against K, tokens and parameters too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "eigen_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    console = Console(width=100)
    console.print("CPU seconds of one thread; medians of interleaved repeats.")
    results = _toys(arguments.repeats, console) if arguments.toys else {}
    if Path(arguments.model).is_dir():
        results |= _transformer(arguments, console)
    else:
        console.print(f"No model at {arguments.model}: name a folder with --model to time the transformer.")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"Figures: {arguments.json}")


def _toys(repeats: int, console: Console) -> dict[str, Any]:
    before, runs = startup.startup(ROOT, repeats), toy_run.whole_runs(ROOT, repeats)
    console.print(
        "CPU seconds before a toy's first step, target trained and start chosen, over those of `import lightning` "
        f"({before['import lightning']:.1f}): "
        + ", ".join(f"{name} {before[name] / before['import lightning']:.2f}" for name in ("xor", "tms"))
    )
    table = Table("whole decomposition with controls, target trained", "CPU seconds")
    for name, run in runs.items():
        table.add_row(name, f"{run['CPU seconds']:.2f}")
    console.print(table)
    return {"startup": before, "toys": runs}


def _transformer(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    model, repeats = arguments.model, arguments.repeats
    results: dict[str, Any] = {"float64 agreement": transformer_step.agreement_in_float64(model)}
    console.print("Relative difference to nested products in float64:", results["float64 agreement"])
    results["steps"], results["products"] = [], []
    for n_tokens in arguments.tokens:
        results["steps"] += transformer_step.compare(model, n_tokens, arguments.directions, repeats)
    console.print(_step_table(results["steps"]))
    for n_tokens in arguments.tokens:
        counts = sorted({1, *arguments.directions})
        results["products"] += gauss_newton_product.compare(model, n_tokens, counts, repeats)
    console.print(_product_table(results["products"]))
    if arguments.scaling:
        results["limit"] = transformer_step.distance_to_limit(model)
        console.print("Distance to the limit:", {name: round(value, 3) for name, value in results["limit"].items()})
        results["growth"] = transformer_step.growth(model)
        console.print(_growth_table(results["growth"]))
    return results


def _step_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "tokens", "K", "nested s", "logits", "metric computed", "metric kept", "value off by", "gradient off by"
    )
    for row in rows:
        faster = row["times faster than nested"]
        table.add_row(
            str(row["tokens"]),
            str(row["K"]),
            f"{row['seconds']['nested']:.2f}",
            *(f"{faster[name]:.1f}x" for name in ("logits", "metric computed", "metric kept")),
            *(f"{row['off by'][name]:.1e}" for name in ("value", "gradient")),
        )
    return table


def _product_table(rows: list[dict[str, Any]]) -> Table:
    table = Table("tokens", "K", "curvlinops s", "metric computed", "metric kept", "off by")
    for row in rows:
        faster = row["times faster than curvlinops"]
        table.add_row(
            str(row["tokens"]),
            str(row["K"]),
            f"{row['seconds']['curvlinops']:.2f}",
            *(f"{faster[name]:.1f}x" for name in ("metric computed", "metric kept")),
            f"{row['off by']:.1e}",
        )
    return table


def _growth_table(rows: list[dict[str, Any]]) -> Table:
    table = Table("K", "tokens", "parameters", "P", "ms a direction", "peak MiB")
    for row in rows:
        cells = (row["K"], row["tokens"], row["parameters"], row["P"])
        table.add_row(*map(str, cells), f"{row['ms a direction']:.2f}", f"{row['peak MiB']:.0f}")
    return table


if __name__ == "__main__":
    main()
