"""Samples of a person's own: any Dataset, DataLoader or tensor."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from eigen_lightning.data.rows import Which
from eigen_lightning.data.showing import described
from eigen_lightning.data.source import Source
from eigen_lightning.data.stream import Batch, SampleSet, SampleStream
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import derive_seed

CONTEXT = 80
"""Characters of text shown before a token."""


class LoadedSet(SampleSet):
    """Some of the samples of a source."""

    def __init__(
        self, name: str, first_id: int, source: Source, chosen: Int[Tensor, " samples"], decode: Any = None
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
