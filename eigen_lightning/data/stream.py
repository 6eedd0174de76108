"""Samples with an identity: what shards, shuffles and resumes."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Shaped
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eigen_lightning.data.epoch_batches import EpochBatches, resumed_position
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.recipe import Remembering
from eigen_lightning.run.seeding import run_seed


def check_positive(**counts: int | None) -> None:
    """Refuse counts below 1, by name; None stands for no limit.

    Raises:
        UserError: where one is.
    """
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"expected {name} of at least 1, got {count}; leave it out for the default")


class Batch(NamedTuple):
    """What every loader of a :class:`SampleStream` yields.

    Attributes:
        inputs: what the target takes, [batch, ...].
        sample_id: who each sample is, [batch] int64: unique over the training and evaluation sets of a run, and the
            same for the same sample on any rank, with any number of workers, after any resume.
    """

    inputs: Shaped[Tensor, "batch ..."]
    sample_id: Int[Tensor, " batch"]


class SampleSet(Dataset, ABC):
    """Samples in random access, each a function of (epoch, index) alone.

    A new set writes :meth:`__len__`, :meth:`batch` and :meth:`describe`.

    Attributes:
        name: what people call it: "train", "heldout", ...
        repeats: whether the same samples return every epoch, as windows of text do, or are fresh, as in a toy stream.
        first_id: the ``sample_id`` of index 0 in epoch 0; others count on from there.
    """

    repeats: bool = True

    def __init__(self, name: str, first_id: int) -> None:
        self.name = name
        self.first_id = first_id

    @abstractmethod
    def __len__(self) -> int:
        """Samples an epoch."""

    @abstractmethod
    def batch(self, epoch: int, indices: Int[Tensor, " batch"]) -> Batch:
        """The samples at ``indices`` of ``epoch``; pure: the same arguments give the same samples."""

    @abstractmethod
    def describe(self, sample_id: int, position: int | None = None) -> dict[str, Any]:
        """What a person sees of any sample of this set, as JSON-able values.

        Args:
            sample_id: as in :class:`Batch`; its batch need not have been drawn.
            position: which position of the sample, where it has several.
        """

    def __getitem__(self, key: tuple[int, np.ndarray]) -> Batch:
        """The batch for (epoch, indices), as :class:`EpochBatches` yields them."""
        epoch, indices = key
        return self.batch(epoch, torch.as_tensor(indices))

    def sample_ids(self, epoch: int, indices: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """The identities of the samples at ``indices`` of ``epoch``."""
        return self.first_id + indices if self.repeats else self.first_id + epoch * len(self) + indices

    def locate(self, sample_id: int) -> tuple[int, int]:
        """(epoch, index) of a sample: the inverse of :meth:`sample_ids`.

        Raises:
            IndexError: where no sample of this set has that identity.
        """
        epoch, index = divmod(sample_id - self.first_id, len(self))
        if epoch < 0 or (self.repeats and epoch > 0):
            raise IndexError(f"sample {sample_id} is not in {self.name!r}")
        return epoch, index


class ResumableLoader(DataLoader):
    """A loader over :class:`EpochBatches`.

    Its two methods tell Lightning, which would warn otherwise, that it can resume. They carry nothing: the position is
    read from the Trainer's progress when the loader is built.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class SampleStream(Remembering, LightningDataModule, ABC):
    """The samples of a run: one training set, evaluation sets by name, and loaders over them.

    A new stream writes :meth:`sample_sets` and :meth:`identity`. Its loaders yield :class:`Batch`. Resuming from a
    checkpoint written after any training step goes on with exactly the next batch.

    Attributes:
        train_set: what directions are learned on; there after :meth:`setup`.
        evaluation_sets: by name, "heldout" first; there after :meth:`setup`.
        for_target: the target the samples go to, where no Trainer has a module that tells.
    """

    train_set: SampleSet
    evaluation_sets: dict[str, SampleSet]

    def __init__(self, batch_size: int, num_workers: int = 0, seed: int | None = None) -> None:
        """
        Args:
            batch_size: samples a step, over all devices.
            num_workers: processes that load ahead, for each loader.
            seed: seed of the samples and their order; the run's seed where None.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__()
        check_positive(batch_size=batch_size)
        if num_workers < 0:
            raise UserError(f"expected num_workers of at least 0, got {num_workers}; 0 loads in the main process")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.for_target: Any = None
        # A held-out set may be smaller than the number of devices: some then have no batch of it, which is no error.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @abstractmethod
    def sample_sets(self, seed: int) -> tuple[SampleSet, dict[str, SampleSet]]:
        """Build the training set and the evaluation sets, "heldout" first.

        Args:
            seed: the only source of chance.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON-able facts that determine the samples, the seed aside; called after :meth:`setup`."""

    @property
    def target(self) -> Any:
        """What the samples go to: ``for_target``, or the target of the Trainer's module; None without either."""
        if self.for_target is not None or self.trainer is None:
            return self.for_target
        return getattr(self.trainer.lightning_module, "target", None)

    @property
    def resolved_seed(self) -> int:
        """The seed in use."""
        return run_seed() if self.seed is None else self.seed

    def setup(self, stage: str | None = None) -> None:
        """Build the sets, once."""
        if not hasattr(self, "train_set"):
            self.train_set, self.evaluation_sets = self.sample_sets(self.resolved_seed)

    def fingerprint(self) -> str:
        """SHA-256, as hexadecimal, over whatever determines the samples and their order."""
        facts = {"class": type(self).__name__, "seed": self.resolved_seed, **self.identity()}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def train_dataloader(self) -> DataLoader:
        """Batches of ``batch_size`` training samples, the incomplete last one dropped; goes on where a resumed run
        stopped.

        Raises:
            UserError: where the devices can't share a batch evenly, there are too few samples for one batch, or the
                Trainer's ``overfit_batches`` is set.
        """
        epoch, start = 0, 0
        if self.trainer is not None:
            overfit_batches = self.trainer.overfit_batches  # type: ignore[attr-defined]
            if overfit_batches:
                # Lightning would replace the sampler by one that knows nothing of epochs and ranks.
                raise UserError(
                    f"expected overfit_batches of 0, got {overfit_batches}; use limit_train_batches, or fewer samples"
                )
            epoch, start = resumed_position(self.trainer)
        return self._loader(self.train_set, shuffle=self.train_set.repeats, drop_last=True, epoch=epoch, start=start)

    def val_dataloader(self) -> list[DataLoader]:
        """One loader for each evaluation set, in their order; no sample dropped or doubled."""
        return [self._loader(samples) for samples in self.evaluation_sets.values()]

    def test_dataloader(self) -> DataLoader:
        """The held-out samples."""
        return self._loader(self.evaluation_sets["heldout"])

    def predict_dataloader(self) -> DataLoader:
        """The held-out samples."""
        return self._loader(self.evaluation_sets["heldout"])

    def first_batches(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Training batches of epoch 0, one process's share of each; whole ones, the same whenever called."""
        samples = self.train_set
        order = EpochBatches(
            len(samples),
            min(self.batch_size, len(samples)),
            seed=self.resolved_seed,
            shuffle=samples.repeats,
            drop_last=True,
            rank=rank,
            world_size=world_size,
        )
        return (samples[key] for key in order)

    def _loader(self, samples: SampleSet, **order: Any) -> DataLoader:
        ranks = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        batches = EpochBatches(
            len(samples),
            self.batch_size,
            seed=self.resolved_seed,
            rank=ranks[0],
            world_size=ranks[1],
            **order,
        )
        return ResumableLoader(
            samples,
            batch_size=None,
            sampler=batches,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            # Without its own generator, opening a loader would draw from torch's global one.
            generator=torch.Generator(),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must know of the samples; the position is in the Trainer's own progress."""
        return {"fingerprint": self.fingerprint(), "batch_size": self.batch_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume with other samples than the checkpoint's.

        Raises:
            UserError: where a run is resumed (not evaluated) with other samples or another batch size.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":
            return
        if state_dict["batch_size"] != self.batch_size:
            raise UserError(
                f"expected the checkpoint's batch_size of {state_dict['batch_size']} to resume from it, "
                f"got {self.batch_size}; set it back, or start a new run"
            )
        if state_dict["fingerprint"] != self.fingerprint():
            raise UserError(
                f"expected the checkpoint's samples (fingerprint {state_dict['fingerprint'][:12]}) to resume from it, "
                f"got others ({self.fingerprint()[:12]}); restore the data fields and the seed, or start a new run"
            )
