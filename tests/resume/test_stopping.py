"""Signals, locks, full disks, damaged checkpoints and numbers that are not finite: clear ends, nothing lost."""

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eigen_lightning.run.checkpoint_io import AtomicCheckpointIO, last_good, read_checkpoint
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.lock import RunLock
from tests.kinds import Kinds
from tests.processes import CommandProcess
from tests.resume import runs

Start = Callable[..., CommandProcess]
# Seconds, whatever a step takes: a second command must find the first alive.
LONG = {"samples_per_epoch": 32 * 500}


def started(folder: Path) -> Callable[[], bool]:
    return (folder / "checkpoints" / "last.ckpt").exists


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_after_the_batch_and_exits_with_its_code(kinds: Kinds, start: Start, signum: int) -> None:
    whole = kinds.finished("tms", **LONG)
    folder = kinds.fresh(f"signal-{signum}", "tms")
    process = start("tms", folder, **LONG)
    # Rows mean that steps have been taken since the checkpoint at the start.
    assert process.until(lambda: started(folder)() and (folder / "metrics.csv").exists())
    before = read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]
    process.kill(signum)
    assert process.wait() == [128 + signum], process.log.read_text()
    saved = read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]
    assert saved > before or saved > 100
    assert "Traceback" not in process.log.read_text()
    start("tms", folder, **LONG).succeed()
    assert not runs.differences(runs.outcome(whole), runs.outcome(folder))


def test_two_runs_on_one_folder_the_second_is_refused_while_the_first_lives(kinds: Kinds, start: Start) -> None:
    folder = kinds.fresh("two-runs", "tms")
    first = start("tms", folder, **LONG)
    assert first.until(started(folder))
    for more in ([], ["--overwrite", "true"]):
        second = CommandProcess(
            runs.arguments(kinds.config("tms"), folder, *more), folder.with_name(f"second-{len(more)}.log")
        )
        assert second.wait() == [2]
        assert f"in use by process {first.pids[0]}" in second.log.read_text()
    first.kill()
    assert first.wait() == [-signal.SIGKILL]
    start("tms", folder, **LONG).succeed()


def test_a_forked_child_does_not_keep_the_lock_and_another_process_is_refused(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "run")
    lock.acquire()
    held, done = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        try:
            RunLock(tmp_path / "run").acquire()
            os.write(held[1], b"taken")
        except UserError:
            os.write(held[1], b"refused")
        os.read(done[0], 1)
        os._exit(0)
    try:
        assert os.read(held[0], 10) == b"refused"
        lock.release()
        # The child still lives and inherited whatever it could.
        other = os.fork()
        if not other:
            try:
                RunLock(tmp_path / "run").acquire()
                os._exit(0)
            except UserError:
                os._exit(1)
        assert os.waitpid(other, 0)[1] == 0
    finally:
        os.write(done[1], b"x")
        os.waitpid(pid, 0)


def test_a_full_disk_stops_the_run_with_the_last_checkpoint_intact(kinds: Kinds, start: Start) -> None:
    whole = kinds.finished("tms", **LONG)
    folder = kinds.fresh("full", "tms")

    def little_room(rank: int) -> None:
        # Every file of this process may have so many bytes: less than a checkpoint, more than most others.
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    first = start("tms", folder, **LONG)
    assert first.until(started(folder))
    first.kill()
    first.wait()
    good = (folder / "checkpoints" / "last.ckpt").read_bytes()
    args = runs.arguments(kinds.config("tms", **LONG), folder, "--ckpt_path", "last")
    full = CommandProcess(args, folder.with_suffix(".log"), prepare=little_room)
    assert full.wait() == [2], full.log.read_text()
    assert "File too large" in full.log.read_text()
    assert f"--ckpt_path {folder / 'checkpoints' / 'last.ckpt'}" in " ".join(full.log.read_text().split())
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == good
    assert not list((folder / "checkpoints").glob(".*.partial"))
    start("tms", folder, **LONG).succeed()
    assert not runs.differences(runs.outcome(whole), runs.outcome(folder))


def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_named_and_right(kinds: Kinds, start: Start) -> None:
    whole = kinds.finished("tms")
    folder = kinds.fresh("damaged")
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:4000])
    refused = start("tms", folder)
    assert refused.wait() == [2]
    previous = folder / "checkpoints" / "previous.ckpt"
    assert f"--ckpt_path {previous}" in refused.log.read_text().replace("\n", " ")
    args = runs.arguments(kinds.config("tms"), folder, "--ckpt_path", str(previous))
    CommandProcess(args, folder.with_suffix(".log")).succeed()
    assert not runs.differences(runs.outcome(whole), runs.outcome(folder))


def test_checkpoints_hold_primitives_and_tensors_only(kinds: Kinds) -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            assert type(value) is dict or type(value).__name__ == "OrderedDict"
            value = [*value.keys(), *value.values()]
        if isinstance(value, list | tuple):
            for item in value:
                check(item)
        else:
            assert value is None or isinstance(value, bool | int | float | str | torch.Tensor), type(value)

    path = kinds.finished("xor") / "checkpoints" / "last.ckpt"
    check(torch.load(path, weights_only=True))


def test_a_write_that_fails_names_the_checkpoint_that_is_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    good = {"state_dict": {}, "loops": {}, "decomposition": {}}
    AtomicCheckpointIO().save_checkpoint(good, path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left.*is intact"):
        AtomicCheckpointIO().save_checkpoint({**good, "more": 1}, path)
    assert read_checkpoint(path) == good
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_last_good_checkpoint_is_the_newest_that_can_be_read(tmp_path: Path) -> None:
    good = {"state_dict": {}, "loops": {}, "decomposition": {}}
    for age, name in enumerate(("new_bad", "new", "old")):
        path = tmp_path / f"{name}.ckpt"
        AtomicCheckpointIO().save_checkpoint(good, path)
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "new_bad.ckpt").write_bytes(b"PK")
    os.utime(tmp_path / "new_bad.ckpt", (2000, 2000))
    assert last_good(tmp_path) == tmp_path / "new.ckpt"
    assert last_good(tmp_path, but=tmp_path / "new.ckpt") == tmp_path / "old.ckpt"


@pytest.mark.parametrize("ranks", [1, 2])
def test_curvature_that_is_not_finite_stops_the_run_and_is_named(kinds: Kinds, ranks: int) -> None:
    folder = kinds.fresh(f"not-finite-{ranks}")
    config = kinds.config("tms", features=5)
    config["model"]["target"] = {"class_path": "tests.unruly.Spoils"}
    config["model"]["normalization"] = None
    config["model"]["start"] = None
    config["model"]["objective"] = "coverage"
    config["trainer"]["callbacks"] = []
    process = CommandProcess(runs.arguments(config, folder), folder.with_suffix(".log"), ranks)
    assert process.wait() == [2] * ranks, process.log.read_text()[-3000:]
    text = " ".join(process.log.read_text().split())
    batches = list((folder / "checkpoints").glob("offending_batch.rank*.safetensors"))
    assert batches, text
    kept = load_file(batches[0])
    # Where curvature is finite its power in the objective may not be.
    bad = ~kept["curvature"].isfinite()
    bad = bad if bad.any() else ~(kept["curvature"] ** 4).isfinite()
    direction, sample = bad.nonzero()[0].tolist()
    rank = int(batches[0].name.split("rank")[1].split(".")[0])
    for words in (f"direction {direction}", f"sample {int(kept['sample_id'][sample])}", f"rank {rank}", "step "):
        assert words in text, text
    assert float(kept["inputs"][sample, 0]) > 0.97
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 0
    assert json.loads((folder / "manifest.json").read_text())["status"] == "running"
