"""``eigen-lightning verify-resume``: proof, on one's own configuration, that a killed run loses nothing."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from eigen_lightning.run.checkpoint_io import read_checkpoint
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder

Leaf = tuple[str, Any]


def verify_resume(
    config: str,
    kills: int = 2,
    epochs: int = 2,
    batches: int | None = 20,
    seed: int = 0,
    run_dir: str | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Run a configuration once as it is and once killed and resumed, and compare everything the two leave.

    The second run is stopped with ``kill -9`` at random moments, each time resumed with ``--ckpt_path last``. U, the
    optimizers' state, the generators of chance, metrics.csv, top examples, interference and scorecard must end
    bit-identical. Exits with code 1, and names what differs, where they do not.

    Args:
        config: the configuration to prove.
        kills: how often the second run is killed.
        epochs: epochs of both.
        batches: training batches an epoch; null for all.
        seed: of the moments.
        run_dir: where both runs go and stay; a temporary folder where null.
        overrides: further arguments of fit, such as "--data.source=stories.txt".

    Raises:
        UserError: where a number is out of range, or the configuration cannot be run at all.
    """
    for name, value in (("kills", kills), ("epochs", epochs), ("batches", batches)):
        if value is not None and value < 1:
            raise UserError(f"expected {name} of at least 1, got {value}")
    if not Path(config).is_file():
        raise UserError(f"expected a configuration, got {config!r}, which is no file")
    console = Console()
    with tempfile.TemporaryDirectory(prefix="verify-resume-") as temporary:
        folder = Path(run_dir or temporary)
        shorter = ["--trainer.max_epochs", str(epochs), *overrides]
        shorter += [] if batches is None else ["--trainer.limit_train_batches", str(batches)]
        command = [sys.executable, "-m", "eigen_lightning", "fit", "--config", config, "--quiet", "true", *shorter]
        whole, stopped = RunFolder(folder / "whole"), RunFolder(folder / "stopped")
        with console.status("running it without a stop"):
            began = time.monotonic()
            first = _begin([*command, "--run_dir", str(whole.path), "--overwrite", "true"], folder / "whole.log")
            _until_trained(first, whole)
            preparation = time.monotonic() - began
            _finish(first, folder / "whole.log")
            seconds = time.monotonic() - began - preparation
        console.print(f"whole run: {preparation:.1f} s before its first checkpoint, {seconds:.1f} s after")
        chance = random.Random(seed)
        resume = [*command, "--run_dir", str(stopped.path), "--ckpt_path", "last"]
        for kill in range(kills):
            process = _begin(resume, folder / "stopped.log")
            _until_trained(process, stopped)
            time.sleep(chance.uniform(0, seconds / kills))
            alive = process.poll() is None
            if alive:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            at = f"after {read_checkpoint(stopped.last_checkpoint)['global_step']} saved steps"
            console.print(f"kill {kill + 1}: {at}" if alive else f"kill {kill + 1}: came too late, the run had ended")
        with console.status("resuming it to its end"):
            _finish(_begin(resume, folder / "stopped.log"), folder / "stopped.log")
        found = differences(whole, stopped)
    for line in found:
        console.print(f"differs: {line}", soft_wrap=True, markup=False, highlight=False)
    if found:
        raise SystemExit(1)
    console.print(f"bit-identical after {kills} kills: U, optimizers, chance, metrics, examples, interference")


def differences(one: RunFolder, other: RunFolder) -> list[str]:
    """What two finished runs differ in, a line each; times and paths aside."""
    found = []
    checkpoints = [read_checkpoint(run.last_checkpoint) for run in (one, other)]
    leaves = [dict(_leaves({key: kept[key] for key in _COMPARED})) for kept in checkpoints]
    for name in sorted({*leaves[0], *leaves[1]}):
        if name not in leaves[0] or name not in leaves[1]:
            found.append(f"checkpoint {name}: only one run has it")
            continue
        mine, theirs = leaves[0][name], leaves[1][name]
        if isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
            if mine.shape != theirs.shape:
                found.append(f"checkpoint {name}: shape {list(mine.shape)} against {list(theirs.shape)}")
            elif not torch.equal(mine, theirs):
                apart = (mine.double() - theirs.double()).abs()
                share = f"{int((apart > 0).sum())} of {apart.numel()} numbers"
                found.append(f"checkpoint {name}: {share}, by {float(apart.max()):.3g} at most")
        elif mine != theirs:
            found.append(f"checkpoint {name}: {mine!r} against {theirs!r}")
    for path in (one.metrics, one.top_examples, one.interference, one.scorecard):
        twin = other.path / path.name
        if path.exists() != twin.exists():
            found.append(f"{path.name}: only one run has it")
        elif path.exists() and path.read_bytes() != twin.read_bytes():
            found.append(f"{path.name}: {_first_difference(path, twin)}")
    return found


_COMPARED = ("state_dict", "optimizer_states", "global_step", "epoch", "decomposition")


def _leaves(state: Any, path: str = "") -> Iterator[Leaf]:
    if isinstance(state, dict):
        for name, item in state.items():
            yield from _leaves(item, f"{path}.{name}" if path else str(name))
    elif isinstance(state, list | tuple):
        for number, item in enumerate(state):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, state


def _first_difference(path: Path, twin: Path) -> str:
    pairs = zip(path.read_bytes().split(b"\n"), twin.read_bytes().split(b"\n"), strict=False)
    line = next((number for number, (mine, theirs) in enumerate(pairs, start=1) if mine != theirs), None)
    return "of another length" if line is None else f"line {line}"


def _begin(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        # A group of its own, so that whatever it launched is killed with it.
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def _until_trained(process: subprocess.Popen[bytes], run: RunFolder) -> None:
    while not run.last_checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)


def _finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait() != 0:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        reason = lines[-1].removeprefix("eigen-lightning: error: ") if lines else "nothing said"
        raise UserError(f"expected a configuration that runs, got exit code {process.returncode}: {reason}")
