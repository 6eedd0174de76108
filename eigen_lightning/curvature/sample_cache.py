"""Metric and trace of samples that return every epoch, computed once."""

import tempfile
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eigen_lightning.curvature.batch import LinearizedBatch
from eigen_lightning.curvature.scale import Scale
from eigen_lightning.run.waiting import Waiting


class RepeatingSamples(Protocol):
    """A set whose sample ``first_id + i`` is the same in every epoch."""

    name: str
    first_id: int

    def __len__(self) -> int: ...

    def batch(self, epoch: int, indices: Int[Tensor, " batch"]) -> Any: ...


class SampleCache:
    """What belongs to the samples of one set, in memory up to a budget and in a memory-mapped temporary file beyond.

    All samples are computed up front in an order that is always the same: which of them a process is given in later
    epochs depends on chance and on where it was resumed, and results must depend on neither.

    Attributes:
        samples: the set; a cache serves no other.
    """

    def __init__(
        self,
        linearizer: Callable[..., LinearizedBatch],
        samples: RepeatingSamples,
        batch_size: int,
        device: torch.device,
        memory_budget: int = 2**30,
    ) -> None:
        """
        Args:
            linearizer: of the target, for dense or factored rows.
            samples: the set.
            batch_size: samples linearized at a time.
            device: where they are.
            memory_budget: bytes to hold in memory.
        """
        self.samples = samples
        self._linearizer = linearizer
        self._allocate = _Allocator(memory_budget)
        self._metric: Tensor | None = None
        self._trace: Tensor | None = None
        with Waiting(f"Metrics of the {samples.name} samples", len(samples)) as waiting:
            for indices in torch.arange(len(samples)).split(batch_size):
                linearized = linearizer(samples.batch(0, indices).inputs.to(device))
                if linearized.metric is not None:
                    packed = _pack(linearized.metric).cpu()
                    if self._metric is None:
                        self._metric = self._allocate((len(samples), *packed.shape[1:]), packed.dtype)
                    self._metric[indices] = packed
                trace = linearized.trace.cpu()
                if self._trace is None:
                    self._trace = torch.empty(len(samples), *trace.shape[1:], dtype=trace.dtype)
                self._trace[indices] = trace
                waiting.reach(int(indices[-1]) + 1)

    def linearize(
        self, inputs: Tensor, sample_id: Int[Tensor, " batch"], scale: Scale | None = None
    ) -> LinearizedBatch:
        """A batch of the set's samples."""
        indices = (sample_id - self.samples.first_id).cpu()
        metric = None if self._metric is None else _unpack(self._metric[indices].to(inputs.device))
        trace = None if self._trace is None else self._trace[indices].to(inputs.device)
        return self._linearizer(inputs, metric, trace, scale)


class _Allocator:
    """Allocates in memory while a budget lasts, then in files that live as long as the tensor."""

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if torch.Size(shape).numel() * dtype.itemsize <= self.budget:
            return torch.empty(shape, dtype=dtype)
        # The map outlives the file's name and handle.
        with tempfile.TemporaryFile(prefix="eigen_lightning_metrics_") as file:
            kind = torch.empty(0, dtype=dtype).numpy().dtype
            return torch.from_numpy(np.memmap(file, dtype=kind, mode="w+", shape=shape))


def _pack(metric: Float[Tensor, "*samples d d"]) -> Float[Tensor, "*samples packed"]:
    rows, columns = torch.tril_indices(metric.shape[-1], metric.shape[-1], device=metric.device)
    return metric[..., rows, columns]


def _unpack(packed: Float[Tensor, "*samples packed"]) -> Float[Tensor, "*samples d d"]:
    width = int((2 * packed.shape[-1]) ** 0.5)
    rows, columns = torch.tril_indices(width, width, device=packed.device)
    place = torch.empty(width, width, dtype=torch.long, device=packed.device)
    place[rows, columns] = place[columns, rows] = torch.arange(len(rows), device=packed.device)
    return packed.index_select(-1, place.flatten()).unflatten(-1, (width, width))
