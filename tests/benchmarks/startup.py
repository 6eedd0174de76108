"""What passes before a toy's first step, beside what ``import lightning`` takes: each in a process of its own."""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

IMPORT = "import time, lightning; print(time.process_time())"

# Before the first step is where training_step is entered: the target is trained by then, and the start chosen.
FIT = """
import sys, time
from eigen_lightning.cli import main as cli
from eigen_lightning.learning import SparseEigendecomposition

def first_step(*arguments):
    sys.stderr.write(f"\\n{time.process_time()}")
    raise SystemExit

SparseEigendecomposition.training_step = first_step
cli.main()
"""


def startup(root: Path, repeats: int) -> dict[str, float]:
    """Median CPU seconds over interleaved repeats: of the import, and of ``fit`` before its first step.

    Args:
        root: the repository.
        repeats: how many.
    """
    taken: dict[str, list[float]] = {"import lightning": [], "xor": [], "tms": []}
    for _ in range(repeats):
        for name, seconds in taken.items():
            with tempfile.TemporaryDirectory() as folder:
                arguments = ["-c", IMPORT]
                if name != "import lightning":
                    config = str(root / "configs" / f"{name}.yaml")
                    arguments = ["-c", FIT, "fit", "--config", config, "--run_dir", f"{folder}/run"]
                environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
                done = subprocess.run(
                    [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=True
                )
                seconds.append(float((done.stdout + done.stderr).split()[-1]))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
