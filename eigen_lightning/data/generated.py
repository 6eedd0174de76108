"""Sets of toy samples: generated without end, or fixed."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eigen_lightning.data.stream import Batch, SampleSet
from eigen_lightning.run.seeding import derive_seed

BLOCK = 1024
"""Rows drawn from one generator: large enough to be fast, fixed so that no batch size changes a sample."""

CACHED_BLOCKS = 4


def rounded(row: Float[Tensor, " n_in"]) -> dict[str, Any]:
    """One toy input for display, to four decimals."""
    return {"input": [round(value, 4) for value in row.tolist()]}


class GeneratedSet(SampleSet):
    """Fresh samples every epoch, each a function of (seed, epoch, index).

    A new one writes :meth:`draw`.
    """

    repeats = False

    def __init__(self, name: str, first_id: int, length: int, seed: int) -> None:
        super().__init__(name, first_id)
        self.length = length
        self.seed = seed
        self._blocks: dict[tuple[int, int], Tensor] = {}

    @abstractmethod
    def draw(self, generator: torch.Generator, rows: int) -> Float[Tensor, "rows n_in"]:
        """Draw ``rows`` samples, float32."""

    def __len__(self) -> int:
        return self.length

    def batch(self, epoch: int, indices: Int[Tensor, " batch"]) -> Batch:
        # Not sorted, as streams are read in order.
        numbers, which = torch.unique_consecutive(indices // BLOCK, return_inverse=True)
        rows = torch.cat([self._block(epoch, number) for number in numbers.tolist()])
        return Batch(rows.index_select(0, which * BLOCK + indices % BLOCK), self.sample_ids(epoch, indices))

    def describe(self, sample_id: int, position: int | None = None) -> dict[str, Any]:
        epoch, index = self.locate(sample_id)
        return rounded(self.batch(epoch, torch.tensor([index])).inputs[0])

    def _block(self, epoch: int, number: int) -> Float[Tensor, "block n_in"]:
        key = (epoch, number)
        if key not in self._blocks:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.name, epoch, number))
            self._blocks[key] = self.draw(generator, BLOCK)
            if len(self._blocks) > CACHED_BLOCKS:
                self._blocks.pop(next(iter(self._blocks)))
        return self._blocks[key]


class FixedSet(SampleSet):
    """The same few samples every epoch."""

    def __init__(self, name: str, first_id: int, inputs: Float[Tensor, "samples n_in"]) -> None:
        super().__init__(name, first_id)
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, epoch: int, indices: Int[Tensor, " batch"]) -> Batch:
        return Batch(self.inputs[indices], self.sample_ids(epoch, indices))

    def describe(self, sample_id: int, position: int | None = None) -> dict[str, Any]:
        _, index = self.locate(sample_id)
        return rounded(self.inputs[index])
