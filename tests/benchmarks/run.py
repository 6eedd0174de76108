"""``make bench``: time ours against nested products. Every row is a ratio measured in one run on one thread."""

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

from tests.benchmarks import startup, toy_run, transformer_step


def main() -> None:
    """Measure, print tables, write JSON."""
    assets = Path(os.environ.get("EIGEN_LIGHTNING_ASSETS", ROOT.parent / "shared" / "assets"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default=str(assets / "gpt-neo-tinystories"), help="a GPT-Neo of TinyStories-1M's shape"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "runs" / "benchmarks.json", help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "eigen_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    console = Console(width=100)
    console.print("CPU seconds of one thread; medians of interleaved repeats.")
    before = startup.startup(ROOT, 3 if arguments.quick else 7)
    console.print(
        "CPU seconds before a toy's first step, target trained and start chosen, over those of `import lightning` "
        f"({before['import lightning']:.1f}): "
        + ", ".join(f"{name} {before[name] / before['import lightning']:.2f}" for name in ("xor", "tms"))
    )
    results: dict[str, Any] = {"startup": before, "tms": toy_run.whole_run(100 if arguments.quick else 300)}
    console.print(_tms_table(results["tms"]))
    if Path(arguments.model).is_dir():
        results |= _transformer(arguments.model, arguments.quick, console)
    else:
        console.print(f"No model at {arguments.model}: name a folder with --model to time the transformer.")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"Figures: {arguments.json}")


def _transformer(model: str, quick: bool, console: Console) -> dict[str, Any]:
    results: dict[str, Any] = {"float64 agreement": transformer_step.agreement_in_float64(model)}
    console.print("Relative difference to nested products in float64:", results["float64 agreement"])
    plan = [(128, [10, 64])] if quick else [(128, [10, 64, 256, 1024]), (512, [10, 64, 256])]
    results["steps"] = []
    for n_tokens, counts in plan:
        results["steps"] += transformer_step.compare(model, n_tokens, counts, 1 if quick else 3)
    console.print(_step_table(results["steps"]))
    results["limit"] = transformer_step.distance_to_limit(model, 64 if quick else 256)
    console.print("Distance to the limit:", {name: round(value, 3) for name, value in results["limit"].items()})
    if not quick:
        results["growth"] = transformer_step.growth(model)
        console.print(_growth_table(results["growth"]))
    return results


def _tms_table(result: dict[str, Any]) -> Table:
    table = Table("TMS 5-2, batch 256", "ms a step", "times faster than nested")
    for name, milliseconds in result["ms a step"].items():
        table.add_row(name, f"{milliseconds:.3f}", f"{result['times faster than nested'][name]:.1f}")
    return table


def _step_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "tokens", "K", "nested s", "logits", "metric computed", "metric given", "value off by", "gradient off by"
    )
    for row in rows:
        faster = row["times faster than nested"]
        table.add_row(
            str(row["tokens"]),
            str(row["K"]),
            f"{row['seconds']['nested']:.2f}",
            *(f"{faster[name]:.1f}x" for name in ("logits", "metric computed", "metric given")),
            f"{row['value error']:.1e}",
            f"{row['gradient error']:.1e}",
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
