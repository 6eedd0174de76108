"""Pulled-back metrics of samples that return every epoch, kept as packed symmetric matrices."""

import logging
import tempfile
from collections.abc import Callable

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

    def get(
        self,
        sample_id: Int[Tensor, " batch"],
        hidden: Float[Tensor, "batch *positions d"],
        compute: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "batch *positions d d"]:
        """The metric of each sample, computed for those not seen before.

        Args:
            sample_id: identities.
            hidden: what the metric of an unseen sample is computed from.
            compute: from hidden ``[n, *positions, d]`` to metric ``[n, *positions, d, d]``.
        """
        identities = sample_id.tolist()
        width = hidden.shape[-1]
        rows, columns = torch.tril_indices(width, width, device=hidden.device)
        unseen = [i for i, identity in enumerate(identities) if identity not in self._row]
        if unseen:
            packed = compute(hidden[unseen])[..., rows, columns].cpu()
            self._reserve(len(self._row) + len(unseen), packed)
            for i, metric in zip(unseen, packed, strict=True):
                self._row[identities[i]] = row = len(self._row)
                self._store[row] = metric  # type: ignore[index]
        assert self._store is not None
        packed = self._store[[self._row[identity] for identity in identities]].to(hidden.device)
        metric = hidden.new_empty(*hidden.shape, width)
        metric[..., rows, columns] = packed
        metric[..., columns, rows] = packed
        return metric

    def _reserve(self, needed: int, like: Tensor) -> None:
        if self._store is not None and len(self._store) >= needed:
            return
        capacity = max(needed, 2 * len(self._row), 64)
        row_bytes = like[0].numel() * like.element_size()
        shape = (capacity, *like.shape[1:])
        if capacity * row_bytes <= self.memory_budget:
            grown = torch.empty(shape, dtype=like.dtype)
        else:
            if self._in_memory:
                log.info("metrics pass the memory budget of %.1f GiB: kept in a file", self.memory_budget / 2**30)
                self._in_memory = False
            file = tempfile.TemporaryFile(prefix="eigen_lightning_metrics_")  # noqa: SIM115 - lives with the map
            grown = torch.from_numpy(np.memmap(file, dtype=like.numpy().dtype, mode="w+", shape=shape))
        if self._store is not None:
            grown[: len(self._row)] = self._store[: len(self._row)]
        self._store = grown
