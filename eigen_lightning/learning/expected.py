"""How long learning will take, and how much memory, from a few steps measured on the run's own samples."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eigen_lightning.curvature.memory import free_bytes
from eigen_lightning.directions import Start, Steepness
from eigen_lightning.directions.dense import random_rows
from eigen_lightning.directions.factored_ascent import CHOICE, SURPLUS

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
        module: with its Trainer.
    """
    trainer: Any = module.trainer
    data, rows = trainer.datamodule, _Rows.of(module)
    samples, size = data.train_set, min(data.batch_size, len(data.train_set))
    inputs = samples.batch(0, torch.arange(size)).inputs.to(module.device)
    linearizer = module.factored or module.linearizer
    assert linearizer is not None
    assert module.linearizer is not None
    batch = linearizer(inputs)

    # With what belongs to the samples, once that is known.
    def linearized() -> None:
        linearizer(inputs, batch.metric, batch.trace).outputs.sum().item()

    def traced() -> None:
        linearizer(inputs).trace.sum().item()

    def stepping(count: int) -> float:
        drawn = rows.drawn(count)
        return measured(lambda: batch.value_and_gradient(drawn, Steepness(2.0))[0].sum().item())

    tracing, linearizing = measured(traced), measured(linearized)
    batch.trace.sum().item()
    step, climb = stepping(rows.wanted), stepping(rows.climbing)
    n_batches = max(1, min(-(-rows.start.samples // data.batch_size), len(samples) // size))
    # What returns is linearized once, before all else; what is written out, or is one batch, once in the start.
    cached = samples.repeats and module.linearizer.has_costly_parts and trainer.max_epochs != 1
    again = 0.0 if batch.written_out or n_batches == 1 else linearizing
    seconds = tracing * (-(-len(samples) // size) if cached else n_batches)
    seconds += n_batches * (rows.sweeps * (climb + again) + rows.evaluations * climb)
    seconds += n_batches * rows.start.sweeps * (step + again) * (rows.evaluations > 0)
    return Expected(
        start_seconds=seconds,
        step_seconds=step + (linearizing if cached else tracing),
        steps=(len(samples) // data.batch_size) * trainer.max_epochs,
        bytes_now=resident_bytes(module.device),
        bytes_more=rows.climbing * rows.width * CLIMB_BYTES,
        most_directions=min(int(free_bytes(module.device) / rows.bytes_a_direction), module.target.space.size),
    )


@dataclass(frozen=True)
class _Rows:
    """What the start does with rows.

    Attributes:
        start: its settings.
        wanted: K.
        climbing: rows that climb.
        width: numbers a row is held in.
        sweeps: steps of the climbing rows over all samples.
        evaluations: passes of as many rows without a gradient, as if each took one with.
        drawn: so many rows at random.
    """

    start: Start
    wanted: int
    climbing: int
    width: int
    sweeps: int
    evaluations: float
    drawn: Callable[[int], Tensor]

    @classmethod
    def of(cls, module: "SparseEigendecomposition") -> "_Rows":
        start, count = module.start_settings or Start(), module.target.space.size
        like = module.U.detach()
        wanted = module.wanted_directions
        known = start.unknown(count) if wanted == "auto" else int(wanted)
        if module.coordinates is not None:
            space = module.coordinates
            climbing = round(SURPLUS * start.surplus * known)

            def factors(rows: int) -> Tensor:
                return space.random(rows, 0, "expected").to(like)

            return cls(start, known, climbing, space.size, start.steps, 0.5 * CHOICE, factors)

        def dense(rows: int) -> Tensor:
            return random_rows(rows, count, 0, "expected").to(like)

        alone = module.objective_name == "steepness"
        climbing = known if alone or wanted == "auto" else min(round(start.surplus * known), count)
        if module.start_settings is None:
            return cls(start, known, climbing, count, 0, 0.0, dense)
        # The pool is evaluated without a gradient; K more steps are as good as those on K samples' own directions.
        sweeps = start.steps + start.principal_steps * (not alone)
        return cls(start, known, climbing, count, sweeps, 0.0 if alone else 2.0, dense)

    @property
    def bytes_a_direction(self) -> float:
        """Memory of the start for each direction wanted."""
        return self.climbing / self.wanted * self.width * CLIMB_BYTES


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
