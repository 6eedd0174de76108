"""Samples of a person's own: any Dataset, DataLoader or tensor."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from eigen_lightning.data.showing import described
from eigen_lightning.data.stream import Batch, SampleSet, SampleStream
from eigen_lightning.run.errors import UserError, nearest
from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.run.tensor_tree import TensorTree

Inputs = Tensor | TensorTree
Which = str | int | Sequence[str] | Sequence[int]

LABELS = ("label", "labels", "target", "targets", "y", "class")
"""Keys of a dict that are taken for labels."""

IN_MEMORY = 2**30
"""Bytes up to which a data set is read once and held in memory."""

PROBED = 64
"""Samples that stand for a data set too large to be read for its fingerprint."""

CONTEXT = 80
"""Characters of text shown before a token."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples as one batch.

    Attributes:
        inputs: what the network takes.
        labels: one a sample; None where there are none.
    """

    inputs: Inputs
    labels: Any = None

    def label(self, index: int) -> str | None:
        """A label in a word; None where there is none, or it is no single number or word."""
        if self.labels is None:
            return None
        label = self.labels[index]
        if isinstance(label, Tensor):
            return str(label.item()) if label.numel() == 1 else None
        return str(label)


def rows_of(batch: Any, which: Which | None) -> Rows:
    """Inputs and labels of a collated batch.

    Args:
        batch: a tensor, tuple, list or dict.
        which: the inputs' key or index, or several; None takes, of a dict, all tensors but labels, of a tuple all but
            the last, and of a single tensor itself.

    Raises:
        UserError: where nothing in it can be an input.
    """
    if isinstance(batch, Tensor):
        return Rows(batch)
    parts: dict[Any, Any]
    if isinstance(batch, Mapping):
        parts = dict(batch)
        default = [name for name, part in parts.items() if isinstance(part, Tensor) and name not in LABELS]
        others = [name for name in parts if name in LABELS]
    elif isinstance(batch, tuple | list):
        parts = dict(enumerate(batch))
        default = list(parts)[:-1] if len(parts) > 1 else list(parts)
        others = list(parts)[len(default) :]
    else:
        raise UserError(f"expected samples that are tensors, tuples or dicts, got {type(batch).__name__}")
    several = which is not None and not isinstance(which, str | int)
    chosen: list[Any] = default if which is None else list(which) if several else [which]  # type: ignore[arg-type]
    for name in chosen:
        if not isinstance(parts.get(name), Tensor):
            raise UserError(
                f"expected `inputs` to name tensors among {', '.join(map(repr, parts))}, got {name!r}"
                f"{nearest(str(name), map(str, parts)) if name not in parts else ', which is none'}"
            )
    if not chosen:
        raise UserError(f"expected samples with a tensor, got only {', '.join(map(repr, parts))}")
    labels = next((parts[name] for name in others if name not in chosen), None)
    if len(chosen) == 1 and not several:
        return Rows(parts[chosen[0]], labels)
    inputs = {name: parts[name] for name in chosen}
    return Rows(TensorTree.of(inputs if isinstance(batch, Mapping) else tuple(inputs.values())), labels)


class LoadedSet(SampleSet):
    """Some of the samples of a source."""

    def __init__(
        self, name: str, first_id: int, source: "Source", chosen: Int[Tensor, " samples"], decode: Any = None
    ) -> None:
        super().__init__(name, first_id)
        self.source, self.chosen, self.decode = source, chosen, decode

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, epoch: int, indices: Int[Tensor, " batch"]) -> Batch:
        inputs = self.source.rows(self.chosen[indices]).inputs
        return Batch(inputs, self.sample_ids(epoch, indices))  # type: ignore[arg-type]

    def describe(self, sample_id: int, position: int | None = None) -> dict[str, Any]:
        _, index = self.locate(sample_id)
        rows = self.source.rows(self.chosen[index : index + 1])
        first = rows.inputs[0]
        shown = (
            self._text(first, position)
            if self.decode is not None and isinstance(first, Tensor) and first.ndim == 1
            else described(first)
        )
        label = rows.label(0)
        return (
            shown | ({} if position is None else {"position": position}) | ({} if label is None else {"label": label})
        )

    def _text(self, tokens: Int[Tensor, " position"], position: int | None) -> dict[str, Any]:
        ids = tokens.tolist()
        if position is None or not 0 <= position < len(ids):
            return {"kind": "text", "text": self.decode(ids), "summary": self.decode(ids)[:CONTEXT]}
        before, token, after = map(self.decode, (ids[:position], [ids[position]], ids[position + 1 :]))
        return {
            "text": before + token + after,
            "before": before[-CONTEXT:],
            "token": token,
            "after": after[: CONTEXT // 4],
            "token_id": ids[position],
            "previous_token": self.decode([ids[position - 1]]) if position else "",
        }


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


class FromLoader(SampleStream):
    """Samples of any Dataset, DataLoader or tensor, split into training and held-out ones.

    Items are tensors, tuples or dicts. Labels are not learned from; they are shown. Of a DataLoader the data set, the
    batch size and ``collate_fn`` are taken; the order is the run's own. Without random access (IterableDataset) it is
    read once, into memory.
    """

    def __init__(
        self,
        loader: Any,
        heldout: Any = None,
        heldout_fraction: float = 0.1,
        batch_size: int | None = None,
        inputs: Which | None = None,
        decode: Callable[[list[int]], str] | None = None,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            loader: the samples: a Dataset, DataLoader or tensor ``[samples, ...]``.
            heldout: further ones to judge on, alike; None holds some of ``loader`` out.
            heldout_fraction: which share of them.
            batch_size: samples a step, over all devices; None takes the loader's, or 64.
            inputs: key or index of what the network takes, or several; None takes all tensors but labels: of a dict
                those under ``label``, ``target``, ``y`` and the like, of a tuple the last.
            decode: token ids to text, where inputs are token ids: a tokenizer's ``decode``.
            num_workers: processes that load ahead.
            seed: seed of split and order; the run's seed where None.

        Raises:
            UserError: where a number is out of range, or the samples are none.
        """
        if not 0 < heldout_fraction < 1:
            raise UserError(f"expected heldout_fraction between 0 and 1, got {heldout_fraction}; use 0.1, say")
        self._source = Source(loader, inputs)
        self._heldout = None if heldout is None else Source(heldout, inputs)
        if self._heldout is None and len(self._source) < 2:
            raise UserError(
                f"expected at least 2 samples, one of them to hold out, got {len(self._source)}: give `heldout`"
            )
        self.decode, self.heldout_fraction = decode, heldout_fraction
        self._kept = len(self._source)
        if self._heldout is None:
            self._kept -= min(max(1, round(heldout_fraction * self._kept)), self._kept - 1)
        wanted = self._source.batch_size or 64 if batch_size is None else batch_size
        super().__init__(min(wanted, self._kept), num_workers, seed)

    def sample_sets(self, seed: int) -> tuple[SampleSet, dict[str, SampleSet]]:
        generator = torch.Generator().manual_seed(derive_seed(seed, "heldout"))
        if self._heldout is not None:
            chosen, kept = torch.arange(len(self._heldout)), torch.arange(len(self._source))
        else:
            order = torch.randperm(len(self._source), generator=generator)
            kept, chosen = order[: self._kept].sort().values, order[self._kept :].sort().values
        source = self._source if self._heldout is None else self._heldout
        heldout = LoadedSet("heldout", 0, source, chosen, self.decode)
        return LoadedSet("train", len(heldout), self._source, kept, self.decode), {"heldout": heldout}

    def identity(self) -> dict[str, Any]:
        return {
            "samples": self._source.fingerprint(),
            "heldout": None if self._heldout is None else self._heldout.fingerprint(),
            "kept": self._kept,
        }


def as_stream(data: Any, **options: Any) -> SampleStream:
    """Samples as they are, or wrapped as :class:`FromLoader`."""
    return data if isinstance(data, SampleStream) else FromLoader(data, **options)
