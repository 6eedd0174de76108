"""Toy models of superposition: more features than hidden dimensions.

Source: Elhage et al., "Toy Models of Superposition", 2022.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import relu

from eigen_lightning.run.errors import UserError
from eigen_lightning.targets.toys.toy import ToyTarget
from eigen_lightning.targets.toys.training import Ensemble, ToyProblem, train_until_accepted

REPRESENTED_ABOVE = 0.3
MAX_ROUNDS = 8


class TMSNetwork(nn.Module):
    """``f(x) = relu(W^T W x + b)``; all zeros until weights are loaded.

    Attributes:
        W: ``[hidden, features]``, used to embed and to read out.
        b: ``[features]``.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(hidden, features))
        self.b = nn.Parameter(torch.zeros(features))

    def forward(self, inputs: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        """The features as the network reconstructs them."""
        return relu(inputs @ self.W.mT @ self.W + self.b)


def represented(
    W: Float[Tensor, "*restarts hidden features"], b: Float[Tensor, "*restarts features"]
) -> Bool[Tensor, "*restarts features"]:
    """Whether each feature, alone and fully on, comes back above 0.3 of itself."""
    return W.square().sum(dim=-2) + b > REPRESENTED_ABOVE


class TMSProblem(ToyProblem):
    """Reconstruction of sparse features; the score is the number of features represented.

    The expected loss is taken exactly over whether a sample is empty: batches hold only samples with something in
    them, and the empty ones, most of all where features are rare, enter as one term with their probability.
    """

    steps = 2000
    learning_rate = 0.01
    batch_size = 256
    final_size = 16384
    # Small enough that features arrange themselves as they grow: 0.1 left fewer out than 0.3 or 1 did.
    initial_deviation = 0.1

    def __init__(self, features: int, hidden: int, probability: float, accepted_score: int) -> None:
        self.name = f"TMS network, {features} features in {hidden} dimensions"
        self.features = features
        self.hidden = hidden
        self.probability = probability
        self.accepted_score = accepted_score
        self.empty = (1 - probability) ** features

    def initial(self, generator: torch.Generator) -> Ensemble:
        """Small random W, b of zero."""
        W = self.initial_deviation * torch.randn(self.restarts, self.hidden, self.features, generator=generator)
        return {"W": W, "b": torch.zeros(self.restarts, self.features)}

    def losses(self, ensemble: Ensemble, generator: torch.Generator) -> Float[Tensor, " restarts"]:
        """Unbiased estimate of the mean squared error over all samples, empty ones included."""
        inputs = _drawn(self.batch_size, self.features, self.probability, generator)
        return self._losses_on(inputs, ensemble)

    def final_losses(self, ensemble: Ensemble) -> Float[Tensor, " restarts"]:
        """The same estimate on one large batch that is always the same."""
        generator = torch.Generator().manual_seed(0)
        inputs = _drawn(self.final_size, self.features, self.probability, generator)
        return self._losses_on(inputs, ensemble)

    def scores(self, ensemble: Ensemble) -> Float[Tensor, " restarts"]:
        """How many features are represented."""
        return represented(ensemble["W"], ensemble["b"]).sum(dim=-1).float()

    def _losses_on(self, inputs: Float[Tensor, "rows features"], ensemble: Ensemble) -> Float[Tensor, " restarts"]:
        W, b = ensemble["W"], ensemble["b"]
        outputs = relu(torch.baddbmm(b[:, None], inputs @ W.mT, W))
        on_nonempty = (outputs - inputs).square().mean(dim=(1, 2))
        on_empty = relu(b).square().mean(dim=1)
        return (1 - self.empty) * on_nonempty + self.empty * on_empty


class TMSTarget(ToyTarget):
    """A toy model of superposition, trained until all features are represented."""

    def __init__(
        self,
        features: int = 5,
        hidden: int = 2,
        probability: float = 0.05,
        parameters: Sequence[str] = ("*",),
        min_represented: int | None = None,
    ) -> None:
        """
        Args:
            features: how many features there are.
            hidden: how many dimensions they share.
            probability: how often each feature is present in the samples that the network is trained on, in (0, 1].
            parameters: names or patterns of the parameters to decompose, ``W`` and ``b``.
            min_represented: how many features a network must represent to be taken; all where None. Where features
                are common, training leaves some out, and only fewer can be asked for.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(parameters)
        for field, count in (("features", features), ("hidden", hidden)):
            if count < 1:
                raise UserError(f"expected {field} of at least 1, got {count}; leave it out for the default")
        if not 0 < probability <= 1:
            raise UserError(f"expected a probability in (0, 1], got {probability}; use 0.05, say")
        if min_represented is not None and not 0 <= min_represented <= features:
            raise UserError(
                f"expected min_represented between 0 and features ({features}), got {min_represented}; "
                f"leave it out to ask for all"
            )
        self.features = features
        self.n_hidden = hidden
        self.probability = probability
        self.min_represented = features if min_represented is None else min_represented
        self.n_inputs = features
        self.feature_names = [f"feature {index}" for index in range(features)]

    def build(self) -> TMSNetwork:
        """The network, all zeros."""
        return TMSNetwork(self.features, self.n_hidden)

    def train(self, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train until enough features are represented.

        Raises:
            UserError: where they never were, with how many at best.
        """
        problem = TMSProblem(self.features, self.n_hidden, self.probability, self.min_represented)
        trained = train_until_accepted(problem, seed, MAX_ROUNDS)
        if trained.score < self.min_represented:
            raise UserError(
                f"expected a network that represents {self.min_represented} of {self.features} features, the best of "
                f"{trained.restarts} represents {trained.score:.0f}; lower probability ({self.probability:g}), raise "
                f"hidden ({self.n_hidden}), or accept this with min_represented: {trained.score:.0f}"
            )
        facts = {
            "seed": seed,
            "rounds": trained.rounds,
            "restarts": trained.restarts,
            "loss": trained.loss,
            "probability": self.probability,
            "represented": represented(trained.weights["W"], trained.weights["b"]).nonzero().flatten().tolist(),
        }
        return trained.weights, facts

    def trained_on(self) -> dict[str, Any]:
        """How often features were present."""
        return {"probability": self.probability}

    def config(self) -> dict[str, Any]:
        """The network's size in addition to the parameters chosen."""
        return super().config() | {"features": self.features, "hidden": self.n_hidden}

    def single_feature_inputs(self, values: int) -> Float[Tensor, "features values features"]:
        """For each feature the inputs on which only it is on, at 1/values, 2/values, ..., 1."""
        strengths = torch.arange(1, values + 1) / values
        return torch.eye(self.features)[:, None] * strengths[:, None]

    def feature_inputs(self, values: int) -> list[Float[Tensor, "values features"]]:
        """:meth:`single_feature_inputs`, one tensor a feature."""
        return list(self.single_feature_inputs(values))


def _drawn(rows: int, features: int, probability: float, generator: torch.Generator) -> Float[Tensor, "rows features"]:
    """Samples that are not empty, as the data has them."""
    # Not above: it would load Lightning, which looking at a finished run does without.
    from eigen_lightning.data.tms import nonempty_features

    return nonempty_features(rows, features, probability, generator)
