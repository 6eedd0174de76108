"""What each process holds of a U that is split by rows, and what its memory peaks at."""

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eigen_lightning.learning import SparseEigendecomposition
from tests.kinds import Kinds
from tests.processes import CommandProcess
from tests.resume import runs

MIB = 2**20


def status(key: str) -> float:
    """A line of this process's memory in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def config(nodes: int, n_directions: int) -> dict[str, Any]:
    return {
        "seed_everything": 0,
        "model": {
            "target": {"class_path": "tests.wide.Wide", "init_args": {"nodes": nodes}},
            "n_directions": n_directions,
            "rows": 1,
            "starts": {"count": 2, "steps": 2, "samples": 8},
            "normalization": {"power": 0.0, "probes": 2},
        },
        "data": {"class_path": "XOR", "init_args": {"batch_size": 8, "samples_per_epoch": 24}},
        "trainer": runs.trainer(max_epochs=1, callbacks=[{"class_path": "Interference"}]),
        "report": False,
    }


def measured(folder: Path) -> Callable[[int], None]:
    """Have a process note its memory: MiB of U, gradient and average, and by how much each phase peaks above what it
    had before there was a U."""
    noted: dict[str, float] = {}

    def peak(name: str, phase: Callable[..., Any]) -> Callable[..., Any]:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            Path("/proc/self/clear_refs").write_text("5")
            result = phase(self, *args, **kwargs)
            noted[name] = max(noted.get(name, 0.0), status("VmHWM") - noted["floor"])
            return result

        return run

    def step(self: Any, *args: Any) -> None:
        original_step(self, *args)
        average = self.trainer.optimizers[0].state[self.U]["average"]
        for name, tensor in (("U", self.U), ("gradient", self.U.grad), ("average", average)):
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            noted[name] = local.untyped_storage().nbytes() / MIB

    def configure_model(self: Any) -> None:
        libc = ctypes.CDLL("libc.so.6")
        libc.malloc_trim(0)
        # M_MMAP_THRESHOLD: large blocks go back to the system as soon as they are freed, and are no longer counted.
        libc.mallopt(-3, 2**16)
        noted["floor"] = status("VmRSS")
        original_configure(self)

    module: Any = SparseEigendecomposition
    original_step, original_configure = module.training_step, module.configure_model

    def prepare(rank: int) -> None:
        module.configure_model, module._start = configure_model, peak("start", module._start)
        module.training_step = peak("step", step)
        module.on_train_end = lambda self: folder.with_suffix(f".memory{rank}").write_text(json.dumps(noted))

    return prepare


def memory(kinds: Kinds, nodes: int, n_directions: int, ranks: int) -> list[dict[str, float]]:
    """What each process noted."""
    folder = kinds.fresh(f"memory-{nodes}-{n_directions}-{ranks}")
    CommandProcess(
        runs.arguments(config(nodes, n_directions), folder),
        folder.with_suffix(".log"),
        ranks,
        measured(folder),
        strategy=("row_parallel",),
    ).succeed()
    return [json.loads(folder.with_suffix(f".memory{rank}").read_text()) for rank in range(ranks)]


def test_each_of_two_processes_holds_half(kinds: Kinds) -> None:
    nodes, n_directions = 2**14, 64
    (alone,) = memory(kinds, nodes, n_directions, 1)
    assert alone["U"] == alone["gradient"] == alone["average"] == n_directions * 3 * nodes * 4 / MIB
    for shared in memory(kinds, nodes, n_directions, 2):
        for name in ("U", "gradient", "average"):
            assert shared[name] == alone[name] / 2
        saved = sum(alone[name] - shared[name] for name in ("U", "gradient", "average"))
        # Not only what is kept is less, but also what is there for a moment.
        for phase in ("start", "step"):
            assert alone[phase] - shared[phase] > 1.5 * saved, (alone, shared)


@pytest.mark.slow
def test_memory_table(kinds: Kinds, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, n_directions = 2**16, 128
    with capsys.disabled():
        for ranks in (1, 2, 4):
            for rank, noted in enumerate(memory(kinds, nodes, n_directions, ranks)):
                facts = ", ".join(f"{name} {noted[name]:.0f}" for name in ("U", "gradient", "average", "start", "step"))
                print(f"\n{ranks} processes, rank {rank}, MiB: {facts}", end="")
    assert torch.get_num_threads() == 1
