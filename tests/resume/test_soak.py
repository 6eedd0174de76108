"""Hours of running: memory flat after the first epoch, no file handle leaked."""

import os
import time
from pathlib import Path

import pytest

from tests.kinds import Kinds
from tests.processes import CommandProcess
from tests.resume import runs


def resident(pid: int) -> int:
    """Resident memory in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_soak(kinds: Kinds, gpt_neo_folder: Path, tinystories_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """TinyStories with validation each epoch; ``EIGEN_LIGHTNING_SOAK`` sets another number of seconds than 1200."""
    seconds = int(os.environ.get("EIGEN_LIGHTNING_SOAK", "1200"))
    config = runs.text(str(tinystories_file), str(gpt_neo_folder), n_sequences=64, n_heldout_sequences=16)
    config["trainer"]["max_epochs"] = 100_000
    config["trainer"]["max_time"] = {"seconds": seconds}
    folder = kinds.fresh("soak")
    process = CommandProcess(runs.arguments(config, folder), folder.with_suffix(".log"))
    pid = process.pids[0]
    # The matrix is written at the end of each validation.
    assert process.until((folder / "interference.npy").exists, timeout=600)
    epochs: list[tuple[int, int]] = []
    seen = 0.0
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        written = (folder / "interference.npy").stat().st_mtime
        if written != seen:
            seen = written
            epochs.append((resident(pid), len(os.listdir(f"/proc/{pid}/fd"))))
        time.sleep(0.02)
    assert os.waitstatus_to_exitcode(status) == 0, process.log.read_text()[-2000:]
    epochs = epochs[1:-1]
    first, last = epochs[0], epochs[-1]
    with capsys.disabled():
        print(
            f"\nsoak of {seconds} s, {len(epochs)} epochs: resident {first[0] / 1024:.1f} MiB after the first, "
            f"{last[0] / 1024:.1f} MiB after the last; {first[1]} and {last[1]} open files",
            end="",
        )
    assert last[0] <= 1.02 * first[0]
    assert last[1] <= first[1]
