"""Which samples make up each batch of an epoch, on each rank, from any batch on."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data.distributed import DistributedSampler

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import derive_seed


class EpochBatches(DistributedSampler):
    """Batches of sample indices: the global batches of one epoch, of which each rank takes its share.

    The order is a function of (seed, epoch) alone, so a resumed run needs no more than the epoch and the number of
    batches done. Rank r has every ``world_size``-th sample from the r-th on; where a batch splits evenly, the ranks
    together see in each step what one process would.

    It is a ``DistributedSampler`` so that Lightning leaves it in place instead of wrapping a sampler of its own
    around it, which would shard a second time and double samples to even out the ranks.
    """

    def __init__(
        self,
        n_samples: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        start: int = 0,
    ) -> None:
        """
        Args:
            n_samples: samples an epoch, over all ranks.
            batch_size: samples a batch, over all ranks.
            seed: seed of the order.
            shuffle: a new permutation every epoch; otherwise the samples' own order.
            drop_last: leave out the last batch where it is incomplete; every rank then has batches of equal size.
                Otherwise nothing is left out or doubled, and ranks may differ by one sample in their last batch.
            rank: this process.
            world_size: number of processes.
            epoch: the epoch to begin with.
            start: batches of that epoch that are done already.

        Raises:
            UserError: with ``drop_last``, where ``batch_size`` can't be split evenly over the ranks or where there
                are fewer samples than that.
        """
        if drop_last and batch_size % world_size:
            fits = batch_size // world_size * world_size or world_size
            raise UserError(
                f"expected a batch_size (samples a step over all devices) that {world_size} devices can share evenly, "
                f"got {batch_size}; use {fits}"
            )
        if drop_last and n_samples < batch_size:
            fits = n_samples // world_size * world_size
            mend = f"use a batch_size of at most {fits}" if fits else "use more samples or fewer devices"
            raise UserError(
                f"expected at least one batch of {batch_size} training samples, got {n_samples} samples; {mend}"
            )
        super().__init__(range(n_samples), world_size, rank, shuffle, seed, drop_last)  # type: ignore[arg-type]
        self.n_samples = n_samples
        self.batch_size = batch_size
        self.share = max(1, batch_size // world_size)
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank: those done already count, as Lightning counts from the epoch's
        first batch."""
        if self.drop_last:
            return self.n_samples // self.batch_size
        return -(-len(range(self.rank, self.n_samples, self.num_replicas)) // self.share)

    def set_epoch(self, epoch: int) -> None:
        """Iterate over ``epoch`` next: from its first batch, except where it is the one to be resumed."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def order(self, epoch: int) -> np.ndarray:
        """All sample indices in the order of ``epoch``, int64 of shape [n_samples]."""
        if not self.shuffle:
            return np.arange(self.n_samples)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        return torch.randperm(self.n_samples, generator=generator).numpy()

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, int64 indices of this rank's share) of each batch; arrays, as those pass to workers by value."""
        epoch, share = self.epoch, self.order(self.epoch)[self.rank :: self.num_replicas]
        for batch in range(self.start, len(self)):
            yield epoch, share[batch * self.share : (batch + 1) * self.share]


def resumed_position(trainer: pl.Trainer) -> tuple[int, int]:
    """(epoch, batches done in it) at which training goes on, from the progress that Lightning counts.

    A batch counts once its training step is over (``processed``), never when it was merely fetched: loader workers
    that run ahead don't shift the position, and a step that was interrupted is repeated.
    """
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches = progress.current
    # Outside an epoch the batch counters still hold those of the one before.
    if epochs.started == epochs.processed:
        return epochs.processed, 0
    # A checkpoint written after an epoch's last batch and before its end, by validation for instance.
    if progress.is_last_batch and batches.processed == batches.ready:
        return epochs.processed + 1, 0
    return epochs.processed, batches.processed
