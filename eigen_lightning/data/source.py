"""Samples in random access, from any Dataset, DataLoader or tensor."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from eigen_lightning.data.rows import Rows, Which, rows_of
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.tensor_tree import TensorTree

IN_MEMORY = 2**30
"""Bytes up to which a data set is read once and held in memory."""

PROBED = 64
"""Samples that stand for a data set too large to be read for its fingerprint."""


class Source:
    """Samples in random access, from whatever they come in; held in memory where they fit."""

    def __init__(self, given: Any, which: Which | None) -> None:
        self._which = which
        self._whole: Rows | None = None
        self.batch_size: int | None = None
        self._collate: Callable[[list[Any]], Any] = default_collate
        if isinstance(given, Tensor):
            given = TensorDataset(given)
        loader = given if isinstance(given, DataLoader) else None
        self._dataset: Any = given if loader is None else loader.dataset
        if loader is not None:
            self.batch_size = loader.batch_size
            if loader.batch_size is not None:
                self._collate = loader.collate_fn
        if isinstance(self._dataset, IterableDataset) or (loader is not None and loader.batch_size is None):
            self._whole = self._collected(DataLoader(given, batch_size=PROBED) if loader is None else loader)
        elif not hasattr(self._dataset, "__getitem__") or not hasattr(self._dataset, "__len__"):
            raise UserError(f"expected a Dataset, a DataLoader or a tensor of samples, got {type(given).__name__}")
        else:
            self._read()

    def __len__(self) -> int:
        return len(self._dataset) if self._whole is None else len(self._whole.inputs)

    def rows(self, indices: Int[Tensor, " batch"]) -> Rows:
        """The samples at these indices."""
        if self._whole is None:
            return self._gathered(indices.tolist())
        labels = self._whole.labels
        if labels is not None:
            labels = labels[indices] if isinstance(labels, Tensor) else [labels[index] for index in indices.tolist()]
        return Rows(self._whole.inputs[indices], labels)

    def fingerprint(self) -> str:
        """SHA-256 over the inputs, or over some of a data set that is not held in memory."""
        rows = self._whole or self._gathered(torch.linspace(0, len(self) - 1, min(PROBED, len(self))).long().tolist())
        digest = hashlib.sha256(str(len(self)).encode())
        for part in rows.inputs.parts if isinstance(rows.inputs, TensorTree) else (rows.inputs,):
            digest.update(f"{part.dtype} {list(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _read(self) -> None:
        """Hold the whole where it fits; else see that a sample is the same whenever it is asked for."""
        if not len(self):
            raise UserError("expected samples, got an empty data set")
        few = list(range(min(PROBED, len(self))))
        rows = self._gathered(few)
        parts = rows.inputs.parts if isinstance(rows.inputs, TensorTree) else (rows.inputs,)
        if sum(part.numel() * part.element_size() for part in parts) / len(few) * len(self) <= IN_MEMORY:
            self._whole = self._gathered(list(range(len(self))))
            return
        again = self._gathered(few).inputs
        others = again.parts if isinstance(again, TensorTree) else (again,)
        if not all(torch.equal(one, other) for one, other in zip(parts, others, strict=True)):
            raise UserError(
                "expected a data set whose samples are the same whenever they are read, got others the second time: "
                "leave out random augmentation"
            )

    def _gathered(self, indices: list[int]) -> Rows:
        items = [self._dataset[index] for index in indices]
        try:
            return rows_of(self._collate(items), self._which)
        # What collating raises for items that are no numbers, or of different shapes.
        except (TypeError, RuntimeError) as error:
            raise UserError(
                f"expected samples that can be put into one batch, got {str(error).strip().splitlines()[0]}: let the "
                "data set return tensors of equal shapes, or give a DataLoader whose collate_fn pads them"
            ) from error

    def _collected(self, loader: DataLoader) -> Rows:
        every = [rows_of(batch, self._which) for batch in loader]
        if not every:
            raise UserError("expected samples, got a loader that yields none")
        try:
            inputs = torch.cat([rows.inputs for rows in every])  # type: ignore[misc]
        except RuntimeError as error:
            raise UserError(
                f"expected batches that can be joined, got {str(error).strip().splitlines()[0]}: pad all to one length"
            ) from error
        labels = [rows.labels for rows in every]
        if any(label is None for label in labels):
            return Rows(inputs)
        one_by_one = [label for each in labels for label in each]
        return Rows(inputs, torch.cat(labels) if isinstance(labels[0], Tensor) else one_by_one)
