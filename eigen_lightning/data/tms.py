"""Samples for toy models of superposition."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eigen_lightning.data.generated import FixedSet, GeneratedSet
from eigen_lightning.data.stream import SampleSet, SampleStream, check_positive
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import derive_seed


def sparse_features(
    rows: int,
    features: int,
    probability: float,
    generator: torch.Generator,
    *,
    group_size: int = 1,
    signed: bool = False,
) -> Float[Tensor, "rows inputs"]:
    """Features each present with ``probability`` independently of the others, float32.

    Args:
        rows: how many samples.
        features: how many features each has.
        probability: how often each is present, in (0, 1].
        generator: where chance comes from.
        group_size: inputs that make up a feature: present together, their values independent.
        signed: whether values are uniform in [-1, 1) and not in [0, 1).

    Returns:
        ``features * group_size`` inputs, zero where absent.
    """
    if group_size > 1 or signed:
        present = torch.rand(rows, features, generator=generator) < probability
        return _valued(present, generator, group_size, signed)
    # Given that a chance is below the probability, it is uniform there: one draw says whether a feature is present and
    # how strongly.
    strength = torch.rand(rows, features, generator=generator).div_(probability)
    return strength.masked_fill_(strength >= 1, 0.0)


def nonempty_features(
    rows: int,
    features: int,
    probability: float,
    generator: torch.Generator,
    *,
    group_size: int = 1,
    signed: bool = False,
) -> Float[Tensor, "rows inputs"]:
    """As :func:`sparse_features`, given that at least one is present.

    The first one present is drawn from a truncated geometric distribution; those after it are independent.
    """
    absent = 1 - probability
    ways = absent ** torch.arange(features, dtype=torch.float64)
    first = torch.multinomial(ways, rows, replacement=True, generator=generator)[:, None]
    place = torch.arange(features)
    present = (place == first) | ((place > first) & (torch.rand(rows, features, generator=generator) < probability))
    return _valued(present, generator, group_size, signed)


def _valued(
    present: Bool[Tensor, "rows features"], generator: torch.Generator, group_size: int, signed: bool
) -> Float[Tensor, "rows inputs"]:
    present = present.repeat_interleave(group_size, 1)
    strength = torch.rand(present.shape, generator=generator)
    return (2 * strength - 1 if signed else strength) * present


def single_features(
    features: int, values: int, *, group_size: int = 1, signed: bool = False
) -> Float[Tensor, "samples inputs"]:
    """Exactly one feature present in each row: every feature with ``values`` values, evenly spaced and up to 1.

    Ordered by feature, then by value; ``features * values`` rows. Values begin at 1/values, or at -1 where signed; the
    inputs of a group have random ones, the same whenever asked for.
    """
    if group_size > 1:
        present = torch.eye(features).bool().repeat_interleave(values, 0)
        return _valued(present, torch.Generator().manual_seed(0), group_size, signed)
    strengths = torch.linspace(-1, 1, values) if signed else torch.arange(1, values + 1) / values
    return torch.kron(torch.eye(features), strengths[:, None])


class TMSSamples(GeneratedSet):
    """A stream of sparse features, with or without samples in which no feature is present."""

    def __init__(
        self,
        name: str,
        first_id: int,
        length: int,
        seed: int,
        features: int,
        probability: float,
        empty: bool,
        **kind: Any,
    ) -> None:
        super().__init__(name, first_id, length, seed)
        self.features = features
        self.probability = probability
        self.empty = empty
        self.kind = kind

    def draw(self, generator: torch.Generator, rows: int) -> Float[Tensor, "rows inputs"]:
        draw = sparse_features if self.empty else nonempty_features
        return draw(rows, self.features, self.probability, generator, **self.kind)


class TMS(SampleStream):
    """Sparse features, as in toy models of superposition. Where the target says that its features are groups of inputs
    (``group_size``) or have signs (``signed_inputs``), the samples have them so.

    Evaluation sets: "heldout", drawn like the training samples from a seed of its own, and "single_feature", in
    which exactly one feature is present, each equally often, its values spread evenly over (0, 1].

    Source: Elhage et al., "Toy Models of Superposition", 2022.
    """

    def __init__(
        self,
        features: int | None = None,
        probability: float = 0.05,
        batch_size: int = 256,
        samples_per_epoch: int = 16384,
        heldout_samples: int = 4096,
        values_per_feature: int = 100,
        empty_samples: bool = False,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            features: number of features, the network's inputs; the target's where None.
            probability: how often each feature is present, in (0, 1].
            batch_size: samples a step, over all devices.
            samples_per_epoch: training samples an epoch, fresh in every epoch.
            heldout_samples: size of "heldout".
            values_per_feature: samples of each feature in "single_feature".
            empty_samples: whether samples without any feature are learned from too. With 5 features of 5 % they are
                77 %, all the same, and where a bias is above zero a direction for it alone outweighs rare features.
                "heldout" holds them in any case.
            num_workers: processes that load ahead, for each loader; 0 is fastest here.
            seed: seed of the samples; the run's seed where None.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(batch_size, num_workers, seed)
        check_positive(
            features=features,
            samples_per_epoch=samples_per_epoch,
            heldout_samples=heldout_samples,
            values_per_feature=values_per_feature,
        )
        if not 0 < probability <= 1:
            raise UserError(f"expected a probability in (0, 1], got {probability}; use 0.05, say")
        self.features = features
        self.probability = probability
        self.samples_per_epoch = samples_per_epoch
        self.heldout_samples = heldout_samples
        self.values_per_feature = values_per_feature
        self.empty_samples = empty_samples

    def sample_sets(self, seed: int) -> tuple[SampleSet, dict[str, SampleSet]]:
        features = self._features()
        generator = torch.Generator().manual_seed(derive_seed(seed, "heldout"))
        kind = self._kind()
        inputs = sparse_features(self.heldout_samples, features, self.probability, generator, **kind)
        heldout = FixedSet("heldout", 0, inputs)
        single = FixedSet("single_feature", len(heldout), single_features(features, self.values_per_feature, **kind))
        first_id = single.first_id + len(single)
        train = TMSSamples(
            "train", first_id, self.samples_per_epoch, seed, features, self.probability, self.empty_samples, **kind
        )
        return train, {"heldout": heldout, "single_feature": single}

    def _features(self) -> int:
        features = getattr(self.target, "features", None) if self.features is None else self.features
        if features is None:
            raise UserError("expected data.features, or a target that has a number of features, got neither: set it")
        return features

    def _kind(self) -> dict[str, Any]:
        return {
            "group_size": getattr(self.target, "group_size", 1),
            "signed": getattr(self.target, "signed_inputs", False),
        }

    def identity(self) -> dict[str, Any]:
        fields = ("probability", "samples_per_epoch", "heldout_samples", "values_per_feature", "empty_samples")
        facts = {"features": self._features(), **{field: getattr(self, field) for field in fields}}
        # Only where they are not the plain ones, so that runs of before keep their fingerprint.
        return facts | ({} if self._kind() == {"group_size": 1, "signed": False} else self._kind())
