"""Samples for the XOR network."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.data.generated import FixedSet, GeneratedSet
from eigen_lightning.data.stream import SampleSet, SampleStream, check_positive

INPUTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


class XORSamples(GeneratedSet):
    """XOR's inputs in random order: every four consecutive samples hold each input once."""

    def draw(self, generator: torch.Generator, rows: int) -> Float[Tensor, "rows 2"]:
        orders = torch.rand(rows // len(INPUTS), len(INPUTS), generator=generator).argsort(dim=1)
        return INPUTS[orders.flatten()]


class XOR(SampleStream):
    """The four inputs of XOR.

    The training set streams them in random order, each once in every four samples; "heldout" is the four of them,
    with ``sample_id`` 0 to 3 for [0, 0], [0, 1], [1, 0], [1, 1].
    """

    def __init__(
        self,
        batch_size: int = 32,
        samples_per_epoch: int = 1024,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            batch_size: samples a step, over all devices.
            samples_per_epoch: samples an epoch.
            num_workers: processes that load ahead, for each loader; 0 is fastest here.
            seed: seed of the samples; the run's seed where None.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(batch_size, num_workers, seed)
        check_positive(samples_per_epoch=samples_per_epoch)
        self.samples_per_epoch = samples_per_epoch

    def sample_sets(self, seed: int) -> tuple[SampleSet, dict[str, SampleSet]]:
        heldout = FixedSet("heldout", 0, INPUTS.clone())
        return XORSamples("train", len(heldout), self.samples_per_epoch, seed), {"heldout": heldout}

    def identity(self) -> dict[str, Any]:
        return {"samples_per_epoch": self.samples_per_epoch}
