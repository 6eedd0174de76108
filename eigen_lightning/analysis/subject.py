"""What is judged, and on which samples: a linearized network, and batches of a training and a held-out set."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eigen_lightning.curvature import LinearizedBatch, Linearizer
from eigen_lightning.curvature.linearize import Network


class Target(Network, Protocol):
    """The network of :class:`Subject`; :class:`eigen_lightning.targets.Target` is one.

    One whose features are known has ``feature_names`` and ``feature_inputs``, and ``feature_rank`` above 1 where they
    are subspaces.
    """

    def heads(self) -> dict[str, tuple[int, int]]: ...

    def own_figures(
        self, directions: Float[Tensor, "R P"], d2D: Callable[[Tensor], Float[Tensor, "R samples ..."]]
    ) -> dict[str, Float[Tensor, " R"]]: ...

    def randomized(self, seed: int) -> "Target": ...

    def to(self, device: torch.device) -> "Target": ...


class Batch(Protocol):
    """Samples with an identity."""

    @property
    def inputs(self) -> Tensor: ...

    @property
    def sample_id(self) -> Int[Tensor, " batch"]: ...


class SampleSet(Protocol):
    """Samples that can be found again and shown; text has ``stories``, ``windows`` and ``tokenizer`` in addition."""

    name: str
    first_id: int

    def __len__(self) -> int: ...

    def describe(self, sample_id: int, position: int | None = None) -> dict[str, Any]: ...

    def locate(self, sample_id: int) -> tuple[int, int]: ...


@dataclass(frozen=True)
class EvaluationSamples:
    """The samples to judge on.

    Attributes:
        train_set: what directions were learned on.
        heldout_set: what they were not.
        train_batches: the first training batches, this rank's share, on the device; the same whenever called.
        heldout_batches: the held-out ones.
        world_size: how many processes have a share.
    """

    train_set: SampleSet
    heldout_set: SampleSet
    train_batches: Callable[[], Iterable[Batch]]
    heldout_batches: Callable[[], Iterable[Batch]]
    world_size: int = 1


@dataclass(frozen=True)
class Subject:
    """A network whose directions are judged.

    Attributes:
        target: the network.
        linearizer: linearizes further inputs of it.
        linearize: a batch of a set, unscaled and for dense rows; what was computed of its samples before is used again.
        exponent: of d2D in the objective that directions were learned with.
        power: of the trace that d2D was divided by in it.
        device: where samples and directions are.
    """

    target: Target
    linearizer: Linearizer
    linearize: Callable[[Any, Any], LinearizedBatch]
    exponent: float
    power: float
    device: torch.device

    def linearized(
        self,
        batches: Iterable[Batch],
        samples: SampleSet,
        most: int,
        world_size: int = 1,
        most_inputs: int | None = None,
    ) -> Iterator[tuple[Batch, LinearizedBatch]]:
        """Batches linearized, until there are enough samples.

        Args:
            batches: this rank's share.
            samples: the set they are of.
            most: samples of all ranks, positions counted, after which no further batch is taken.
            world_size: how many ranks there are.
            most_inputs: the same, positions not counted.
        """
        seen, counted = 0, 0
        for batch in batches:
            linearized = self.linearize(batch, samples)
            yield batch, linearized
            seen += len(batch.sample_id) * world_size
            counted += linearized.n_samples * world_size
            if counted >= most or (most_inputs is not None and seen >= most_inputs):
                return
