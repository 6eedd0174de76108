"""Several processes give what one gives, and each step costs as many collectives as it must."""

import csv
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kinds import KINDS, Kinds
from tests.processes import CommandProcess
from tests.resume import runs
from tests.resume.test_resume import killed_and_finished

BOUND = 1e-6


def largest(kinds: Kinds, kind: str, ranks: int) -> float:
    # Batches as large as in the shipped configuration: the polar factor of a gradient from a handful of sparse samples
    # is badly conditioned, and shows float32's rounding magnified.
    tms = {"batch_size": 256, "samples_per_epoch": 2560}
    # A window for each of four processes.
    options: dict[str, Any] = {"tms": tms, "file": {"heldout_fraction": 0.4}}.get(kind, {})
    found = runs.largest_difference(kinds.finished(kind, **options), kinds.finished(kind, ranks, **options))
    return max(found.values())


@pytest.mark.parametrize("kind", ["xor", "tms"])
def test_two_processes_give_what_one_gives(kinds: Kinds, kind: str) -> None:
    assert largest(kinds, kind, 2) <= BOUND
    folder = kinds.finished(kind, 2)
    assert len(list((folder / "tensorboard").glob("events.out.tfevents.*"))) == 1
    steps = [row["step"] for row in csv.DictReader((folder / "metrics.csv").read_text().splitlines())]
    assert len(steps) == len(set(steps))


def test_more_processes_than_held_out_samples_are_refused_and_do_not_wait_for_ever(kinds: Kinds) -> None:
    folder = kinds.fresh("three-windows-for-four")
    process = CommandProcess(runs.arguments(kinds.config("file"), folder), folder.with_suffix(".log"), 4)
    assert process.wait(120) == [2] * 4
    told = " ".join(process.log.read_text().split())
    assert "expected at least as many heldout samples as processes, got 3 for 4" in told


@pytest.mark.slow
def test_parity_table(kinds: Kinds, capsys: pytest.CaptureFixture[str]) -> None:
    table = {(kind, ranks): largest(kinds, kind, ranks) for kind in ("xor", "tms", "file") for ranks in (2, 4)}
    with capsys.disabled():
        for (kind, ranks), difference in table.items():
            print(f"\n{kind}, {ranks} processes against one: largest difference {difference:.2g}", end="")
        print(f"\nlargest of all: {max(table.values()):.2g}")
    assert max(table.values()) <= BOUND


@pytest.mark.parametrize(
    ("kind", "most"), [("tms", {"all_reduce": 2, "broadcast": 1}), ("xor", {"all_reduce": 4, "broadcast": 1})]
)
def test_collectives_a_step(kinds: Kinds, kind: str, most: dict[str, int]) -> None:
    """One for the gradient of stage 1, two for stage 2 (statistic and gradient), one for what all ranks agree on;
    Lightning broadcasts its own flag."""
    folder = kinds.fresh(f"collectives-{kind}", kind)
    counts = folder.with_suffix(".counts")

    def count(rank: int) -> None:
        from eigen_lightning.learning import SparseEigendecomposition

        number: Counter[str] = Counter()
        for name in ("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "barrier"):
            setattr(torch.distributed, name, counting(name, getattr(torch.distributed, name), number))
        original = SparseEigendecomposition.training_step
        seen: list[Counter[str]] = []

        def step(self: Any, batch: Any, batch_idx: int) -> Any:
            seen.append(Counter(number))
            if len(seen) == 3:
                # Batch 1 to 2 as a whole; nothing is logged or saved in between.
                counts.with_suffix(f".{rank}").write_text(repr(dict(seen[2] - seen[1])))
            return original(self, batch, batch_idx)

        SparseEigendecomposition.training_step = step  # type: ignore[method-assign]

    config = kinds.config(kind)
    config["trainer"]["log_every_n_steps"] = 50
    process = CommandProcess(runs.arguments(config, folder), folder.with_suffix(".log"), 2, count)
    process.succeed()
    for rank in range(2):
        assert eval(counts.with_suffix(f".{rank}").read_text()) == most


def counting(name: str, function: Callable[..., Any], number: Counter[str]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        number[name] += 1
        return function(*args, **kwargs)

    return counted


def test_a_killed_run_of_two_processes_goes_on(kinds: Kinds, start: Callable[..., CommandProcess]) -> None:
    killed_and_finished(kinds, start, "tms", 7, ranks=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_with_two_processes_and_two_workers(
    kinds: Kinds, start: Callable[..., CommandProcess], kind: str
) -> None:
    killed_and_finished(kinds, start, kind, 11, ranks=2, num_workers=2)


def test_a_signal_to_one_process_stops_all_and_saves(kinds: Kinds, start: Callable[..., CommandProcess]) -> None:
    long = {"samples_per_epoch": 32 * 100}
    folder = kinds.fresh("one-signal", "tms")
    process = start("tms", folder, ranks=2, **long)
    end = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)
    import os

    os.kill(process.pids[1], signal.SIGTERM)
    assert process.wait() == [143, 143], process.log.read_text()
    start("tms", folder, ranks=2, **long).succeed()
    assert not runs.differences(runs.outcome(kinds.finished("tms", 2, **long)), runs.outcome(folder))


@pytest.mark.slow
def test_lightning_launches_the_processes_itself(kinds: Kinds) -> None:
    """``--trainer.devices 2 --trainer.strategy ddp`` from one command, without torchrun."""
    import subprocess
    import sys

    folder = kinds.fresh("launched", "tms")
    args = runs.arguments(kinds.config("tms"), folder, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    subprocess.run(
        [sys.executable, "-m", "eigen_lightning", *args], check=True, timeout=300, cwd=Path(__file__).parents[2]
    )
    assert max(runs.largest_difference(kinds.finished("tms"), folder).values()) <= BOUND
