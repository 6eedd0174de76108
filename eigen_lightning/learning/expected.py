"""How long learning will take, and how much memory, from a few steps measured on the run's own samples."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from eigen_lightning.curvature.memory import free_bytes
from eigen_lightning.directions import Start, Steepness
from eigen_lightning.directions.dense import random_rows

if TYPE_CHECKING:
    from eigen_lightning.learning.module import SparseEigendecomposition

ENOUGH_SECONDS = 1.0
"""Repetitions of a measured step go on for as long."""

CLIMB_BYTES = 4 + 4 + 8 + 8 + 8
"""A number of a climbing row: itself, its gradient, their sum in float64, and the polar factor's two."""


@dataclass(frozen=True)
class Expected:
    """What a run will take, judging aside.

    Attributes:
        start_seconds: of the start: traces, climbing rows, principal directions, steps on its samples.
        step_seconds: of a step of training.
        steps: how many there are.
        bytes_now: memory in use before the start.
        bytes_more: memory that the start adds at most.
        most_directions: how many directions would fit into the memory that is free.
    """

    start_seconds: float
    step_seconds: float
    steps: int
    bytes_now: float
    bytes_more: float
    most_directions: int

    @property
    def seconds(self) -> float:
        """Start and training."""
        return self.start_seconds + self.steps * self.step_seconds

    def __str__(self) -> str:
        """In words."""
        return (
            f"learning takes about {shown_time(self.seconds)}: a start of {shown_time(self.start_seconds)}, then "
            f"{self.steps} steps of {self.step_seconds:.2g} s; then directions are judged"
        )


@torch.no_grad()
def expected(module: "SparseEigendecomposition") -> Expected:
    """Measure steps and add them up; the module has its linearizer, and learning has not begun.

    Args:
        module: with its Trainer; dense rows.
    """
    trainer: Any = module.trainer
    data, settings = trainer.datamodule, module.start_settings
    start = settings or Start()
    samples, size = data.train_set, min(data.batch_size, len(data.train_set))
    inputs = samples.batch(0, torch.arange(size)).inputs.to(module.device)
    linearizer, count = module.linearizer, module.target.space.size
    assert linearizer is not None
    n_directions = start.unknown(count) if module.wanted_directions == "auto" else int(module.wanted_directions)
    climbing = min(round(start.surplus * n_directions), count) if module.wanted_directions != "auto" else n_directions
    climbing = n_directions if module.objective_name == "steepness" else climbing

    def traced() -> None:
        linearizer(inputs).trace.sum().item()

    tracing = measured(traced)
    batch = linearizer(inputs)
    batch.trace.sum().item()

    def stepping(rows: int) -> float:
        drawn = random_rows(rows, count, 0, "expected").to(linearizer.origin)
        return measured(lambda: batch.value_and_gradient(drawn, Steepness(2.0))[0].sum().item())

    step, climb = stepping(n_directions), stepping(climbing)
    n_batches = max(1, min(-(-start.samples // data.batch_size), len(samples) // size))
    # What returns is linearized once, before all else; what is written out, or is one batch, once in the start.
    cached = samples.repeats and linearizer.has_costly_parts and trainer.max_epochs != 1
    again = 0.0 if cached or batch.written_out or n_batches == 1 else tracing
    sweeps = 0 if settings is None else start.steps + start.principal_steps * (module.objective_name != "steepness")
    seconds = tracing * (-(-len(samples) // size) if cached else n_batches) + n_batches * sweeps * (climb + again)
    if settings is not None and module.objective_name != "steepness":
        # The pool is evaluated, without a gradient, and the choice goes on with K rows.
        seconds += n_batches * (2 * climb + again + start.sweeps * (step + again))
    n_steps = (len(samples) // data.batch_size) * trainer.max_epochs
    per_step = step + (0.0 if cached else tracing)
    more = climbing * count * CLIMB_BYTES
    free = free_bytes(module.device)
    most = int(free / (max(1.0, start.surplus) * count * CLIMB_BYTES))
    return Expected(seconds, per_step, n_steps, resident_bytes(module.device), more, min(most, count))


def measured(step: Callable[[], object]) -> float:
    """Seconds of a step: the least of those measured, the first one left out where there is time for more."""
    begun = time.monotonic()
    step()
    first = time.monotonic() - begun
    took: list[float] = []
    while sum(took) + first < ENOUGH_SECONDS and len(took) < 5:
        begun = time.monotonic()
        step()
        took.append(time.monotonic() - begun)
    return sorted(took)[len(took) // 2] if took else first


def resident_bytes(device: torch.device) -> float:
    """The most memory that this process has used so far, on an accelerator or on the host."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def shown_time(seconds: float) -> str:
    """Seconds, minutes or hours, as a person says it."""
    if seconds < 90:
        return f"{seconds:.2g} seconds" if seconds < 10 else f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
