"""Whole decompositions of toy targets, each by the command in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SYSTEMS = {"XOR": ["xor.yaml"], "TMS 5-2": ["tms.yaml"], "TMS 40-10": ["tms.yaml", "tms_40_10.yaml"]}


def whole_runs(root: Path, repeats: int) -> dict[str, dict[str, Any]]:
    """CPU seconds of ``fit`` without report, controls included, from the trained target on: what manifest.json says.

    Args:
        root: the repository.
        repeats: how many, interleaved.
    """
    taken: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for _ in range(repeats):
        for name, configs in SYSTEMS.items():
            with tempfile.TemporaryDirectory() as folder:
                taken[name].append(_cpu_seconds(root, configs, Path(folder) / "run"))
    return {name: {"CPU seconds": statistics.median(seconds), "each": seconds} for name, seconds in taken.items()}


def _cpu_seconds(root: Path, configs: list[str], run: Path) -> float:
    arguments = [sys.executable, "-m", "eigen_lightning", "fit", "--run_dir", str(run)]
    for config in configs:
        arguments += ["--config", str(root / "configs" / config)]
    arguments += ["--report", "false", "--quiet", "true"]
    subprocess.run(arguments, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    return float(json.loads((run / "manifest.json").read_text())["cpu_seconds"])
