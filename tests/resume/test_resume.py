"""Runs that are stopped and go on end bit-identical to the run that was never stopped."""

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eigen_lightning.run.checkpoint_io import AtomicCheckpointIO
from tests.kinds import KINDS, Kinds
from tests.processes import CommandProcess
from tests.resume import runs


def kill_somewhere(process: CommandProcess, folder: Path, chance: random.Random, seconds: float) -> bool:
    """Kill a run at a random moment, half the time once it trains; whether it was still alive then."""
    if chance.random() < 0.5 and not process.until((folder / "checkpoints" / "last.ckpt").exists):
        return False
    time.sleep(chance.uniform(0, seconds))
    process.kill()
    return -signal.SIGKILL in process.wait()


def killed_and_finished(
    kinds: Kinds, start: Callable[..., CommandProcess], kind: str, number: int, ranks: int = 1, **options: int
) -> int:
    """Kill a run at a random moment, let it go on, compare its end; how many kills found it alive."""
    whole = kinds.finished(kind, ranks, **options)
    folder = kinds.fresh(f"{kind}-{ranks}-{number}", kind)
    chance = random.Random(number)
    alive = kill_somewhere(start(kind, folder, ranks=ranks, **options), folder, chance, seconds=1.5)
    start(kind, folder, ranks=ranks, **options).succeed()
    assert not runs.differences(runs.outcome(whole), runs.outcome(folder)), (kind, number)
    return alive


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_ends_as_if_it_had_never_been(
    kinds: Kinds, start: Callable[..., CommandProcess], kind: str
) -> None:
    killed_and_finished(kinds, start, kind, 0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sixty_kills(kinds: Kinds, start: Callable[..., CommandProcess], capsys: pytest.CaptureFixture[str]) -> None:
    """``EIGEN_LIGHTNING_KILLS`` sets another number."""
    wanted = int(os.environ.get("EIGEN_LIGHTNING_KILLS", "60"))
    identical = alive = number = 0
    while alive < wanted:
        kind = KINDS[number % len(KINDS)]
        # Every third with two loader workers.
        options = {"num_workers": 2} if number % 3 == 2 else {}
        alive += killed_and_finished(kinds, start, kind, 1000 + number, **options)
        identical += 1
        number += 1
    with capsys.disabled():
        print(f"\n{alive} kills of a living run, {identical} bit-identical finishes", end="")
    assert identical == number


def test_loader_workers_change_nothing(kinds: Kinds) -> None:
    """Nor does the start, which looks at the first batches before training does."""
    alone, helped = (runs.outcome(kinds.finished("tms", **options)) for options in ({}, {"num_workers": 2}))
    # TensorBoard shows the hyper-parameters, of which this is one.
    assert set(runs.differences(alone, helped)) <= {"tensorboard"}


@pytest.mark.parametrize("which", ["ends", pytest.param("all", marks=pytest.mark.slow)])
def test_every_checkpoint_of_a_run_leads_to_the_same_end(kinds: Kinds, which: str) -> None:
    """One before each batch: of all, the first two know of the start's samples, and the last has nothing left to do."""
    whole, folder, config = kinds.finished("tms"), kinds.fresh(f"every-{which}", "tms"), kinds.config("tms")
    saving = {"class_path": "RunCheckpoint", "init_args": {"every_n_steps": 1}}
    config["trainer"]["callbacks"] = [*config["trainer"]["callbacks"], saving]

    def keep_copies(rank: int) -> None:
        save, numbers = AtomicCheckpointIO.save_checkpoint, itertools.count()

        def save_and_copy(self: AtomicCheckpointIO, *args: Any, **options: Any) -> None:
            save(self, *args, **options)
            shutil.copytree(folder, folder.with_name(f"{folder.name}-at-{next(numbers):02d}"))

        AtomicCheckpointIO.save_checkpoint = save_and_copy  # type: ignore[method-assign]

    CommandProcess(runs.arguments(config, folder), folder.with_suffix(".log"), prepare=keep_copies).succeed()
    copies = sorted(folder.parent.glob(f"{folder.name}-at-[0-9][0-9]"))
    assert len(copies) == 21
    for copy in copies if which == "all" else [copies[1], copies[-1]]:
        args = runs.arguments(config, copy, "--ckpt_path", "last")
        CommandProcess(args, copy.with_suffix(".log")).succeed()
        assert not runs.differences(runs.outcome(whole), runs.outcome(copy)), copy.name
