"""All samples that there are, of a target that can list them: some to learn from, the others held out."""

from typing import Any

import torch

from eigen_lightning.data.generated import FixedSet
from eigen_lightning.data.stream import SampleSet, SampleStream
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import derive_seed


class Pairs(SampleStream):
    """All pairs of numbers below a modulus, the target's, in an order of their own."""

    def __init__(
        self, heldout_fraction: float = 0.2, batch_size: int = 256, num_workers: int = 0, seed: int | None = None
    ) -> None:
        """
        Args:
            heldout_fraction: share of the pairs that directions are judged on and not learned from, in (0, 1).
            batch_size: pairs a step, over all devices.
            num_workers: processes that load ahead, for each loader; 0 is fastest here.
            seed: seed of the division and of the order; the run's seed where None.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(batch_size, num_workers, seed)
        if not 0 < heldout_fraction < 1:
            raise UserError(f"expected a heldout_fraction in (0, 1), got {heldout_fraction}; use 0.2, say")
        self.heldout_fraction = heldout_fraction

    def sample_sets(self, seed: int) -> tuple[SampleSet, dict[str, SampleSet]]:
        listed = getattr(self.target, "pairs", None)
        if listed is None:
            raise UserError(
                f"expected a target that lists its pairs, got {type(self.target).__name__}: decompose a ModularTarget"
            )
        pairs = listed()
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(derive_seed(seed, "pairs")))
        held = max(1, int(self.heldout_fraction * len(pairs)))
        train = FixedSet("train", 0, pairs[order[held:]])
        return train, {"heldout": FixedSet("heldout", len(train), pairs[order[:held]])}

    def identity(self) -> dict[str, Any]:
        return {"pairs": len(self.train_set), "heldout_fraction": self.heldout_fraction}
