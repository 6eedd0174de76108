"""Pulled-back metrics of samples that return every epoch, kept as packed symmetric matrices."""

import logging
import tempfile

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

log = logging.getLogger(__name__)


class MetricCache:
    """Metrics by sample identity: in memory up to a budget, in a memory-mapped temporary file beyond it.

    It lives as long as the curvature of one loaded target, so it cannot outlive what it was computed from.

    Args:
        memory_budget: bytes to hold in memory.
    """

    def __init__(self, memory_budget: int = 2**30) -> None:
        self.memory_budget = memory_budget
        self._row: dict[int, int] = {}
        self._store: Tensor | None = None
        self._in_memory = True

    def __len__(self) -> int:
        return len(self._row)

    def holds(self, sample_id: Int[Tensor, " batch"]) -> bool:
        """Whether every one of these samples is kept."""
        return bool(self._row) and all(identity in self._row for identity in sample_id.tolist())

    def put(self, sample_id: Int[Tensor, " batch"], metric: Float[Tensor, "batch *positions d d"]) -> None:
        """Keep the metrics of these samples; one that is kept already stays as it is."""
        unseen = [i for i, identity in enumerate(sample_id.tolist()) if identity not in self._row]
        if not unseen:
            return
        rows, columns = torch.tril_indices(metric.shape[-1], metric.shape[-1], device=metric.device)
        packed = metric[unseen][..., rows, columns].cpu()
        store = self._reserve(len(self._row) + len(unseen), packed)
        first = len(self._row)
        store[first : first + len(unseen)] = packed
        self._row.update((int(sample_id[i]), first + n) for n, i in enumerate(unseen))

    def get(self, sample_id: Int[Tensor, " batch"], device: torch.device) -> Float[Tensor, "batch *positions d d"]:
        """The metrics of samples that are all kept."""
        assert self._store is not None
        packed = self._store[[self._row[identity] for identity in sample_id.tolist()]].to(device)
        width = int((2 * packed.shape[-1]) ** 0.5)
        rows, columns = torch.tril_indices(width, width, device=device)
        place = torch.empty(width, width, dtype=torch.long, device=device)
        place[rows, columns] = place[columns, rows] = torch.arange(len(rows), device=device)
        return packed.index_select(-1, place.flatten()).unflatten(-1, (width, width))

    def _reserve(self, needed: int, like: Tensor) -> Tensor:
        if self._store is not None and len(self._store) >= needed:
            return self._store
        capacity = max(needed, 2 * len(self._row), 64)
        shape = (capacity, *like.shape[1:])
        if capacity * like[0].numel() * like.element_size() <= self.memory_budget:
            grown = torch.empty(shape, dtype=like.dtype)
        else:
            if self._in_memory:
                log.info("metrics pass the memory budget of %.1f GiB: kept in a file", self.memory_budget / 2**30)
                self._in_memory = False
            # The map outlives the file's name and handle.
            with tempfile.TemporaryFile(prefix="eigen_lightning_metrics_") as file:
                grown = torch.from_numpy(np.memmap(file, dtype=like.numpy().dtype, mode="w+", shape=shape))
        if self._store is not None:
            grown[: len(self._row)] = self._store[: len(self._row)]
        self._store = grown
        return grown
