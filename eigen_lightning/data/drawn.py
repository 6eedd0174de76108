"""Samples as the target draws them for its own training."""

from typing import Any

import torch
from torch import Tensor

from eigen_lightning.data.generated import FixedSet, GeneratedSet
from eigen_lightning.data.stream import SampleSet, SampleStream, check_positive
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import derive_seed


class DrawnSamples(GeneratedSet):
    """A stream of what a target draws."""

    def __init__(self, name: str, first_id: int, length: int, seed: int, target: Any) -> None:
        super().__init__(name, first_id, length, seed)
        self.target = target

    def draw(self, generator: torch.Generator, rows: int) -> Tensor:
        return self.target.draw(rows, generator)


class Drawn(SampleStream):
    """Samples of a target that can draw them (``draw(rows, generator)``): fresh ones to learn from, others held out."""

    def __init__(
        self,
        batch_size: int = 64,
        samples_per_epoch: int = 2048,
        heldout_samples: int = 512,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            batch_size: samples a step, over all devices.
            samples_per_epoch: training samples an epoch, fresh in every epoch.
            heldout_samples: how many are held out.
            num_workers: processes that load ahead, for each loader; 0 is fastest here.
            seed: seed of the samples; the run's seed where None.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(batch_size, num_workers, seed)
        check_positive(samples_per_epoch=samples_per_epoch, heldout_samples=heldout_samples)
        self.samples_per_epoch = samples_per_epoch
        self.heldout_samples = heldout_samples

    def sample_sets(self, seed: int) -> tuple[SampleSet, dict[str, SampleSet]]:
        target = self.target
        if not hasattr(target, "draw"):
            raise UserError(
                f"expected a target that draws samples, got {type(target).__name__}: choose another data class"
            )
        generator = torch.Generator().manual_seed(derive_seed(seed, "heldout"))
        heldout = FixedSet("heldout", 0, target.draw(self.heldout_samples, generator))
        train = DrawnSamples("train", len(heldout), self.samples_per_epoch, seed, target)
        return train, {"heldout": heldout}

    def identity(self) -> dict[str, Any]:
        return {"samples_per_epoch": self.samples_per_epoch, "heldout_samples": self.heldout_samples}
