"""Toy networks trained to compute a known function of sparse inputs: what the systems of known structure share."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.targets.toys.toy import ToyTarget
from eigen_lightning.targets.toys.training import Ensemble, ToyProblem, train_until_accepted

FINAL_ROWS = 8192
"""Samples on which trained restarts are compared."""

MAX_ROUNDS = 4


class RegressionTarget(ToyTarget):
    """A toy network, trained with Adam to a known function of sparse inputs.

    A new system writes :meth:`shapes`, :meth:`apply` and :meth:`answer`, and sets the attributes in its ``__init__``.
    The same ``apply`` runs one network and, with a leading dimension in each weight, several restarts at once.

    Attributes:
        features: how many features the inputs have; groups of inputs count as one.
        group_size: inputs that are present together, one group a feature.
        signed_inputs: whether inputs are uniform in [-1, 1] and not in [0, 1].
        steps: steps of Adam.
        learning_rate: of its first step; falls to 0 along half a cosine.
        restarts: networks trained together, of which the one with the lowest loss is taken.
        max_error: largest share of the answers' mean square that a network may leave unexplained.
        probability: how often each feature is present in the training samples.
    """

    static_graph = True
    features: int
    group_size: int = 1
    signed_inputs: bool = False
    steps: int = 2000
    learning_rate: float = 0.01
    restarts: int = 2
    max_error: float
    probability: float

    def __init__(self, parameters: Sequence[str], features: int, probability: float, max_error: float) -> None:
        """
        Args:
            parameters: names or patterns of the parameters to decompose.
            features: how many features there are.
            probability: how often each is present in the samples that the network is trained on, in (0, 1].
            max_error: largest share of the answers' mean square that a trained network may leave unexplained.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(parameters)
        check_sizes(features=features)
        if not 0 < probability <= 1:
            raise UserError(f"expected a probability in (0, 1], got {probability}; use 0.05, say")
        if not max_error > 0:
            raise UserError(f"expected a positive max_error, got {max_error}; leave it out for the default")
        self.features = features
        self.probability = probability
        self.max_error = max_error
        self.n_inputs = features * self.group_size
        self.feature_names = [f"feature {index}" for index in range(features)]

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each trained parameter by name; matrices are ``[out, in]``."""

    @abstractmethod
    def apply(
        self, weights: Mapping[str, Tensor], inputs: Float[Tensor, "batch n_inputs"]
    ) -> Float[Tensor, "*restarts batch n_out"]:
        """The network's outputs.

        Args:
            weights: trained parameters, each ``[*restarts, *shape]``, and :meth:`constants`.
            inputs: samples.
        """

    @abstractmethod
    def answer(
        self, constants: Mapping[str, Tensor], inputs: Float[Tensor, "batch n_inputs"]
    ) -> Float[Tensor, "batch n_out"]:
        """What the network is trained to say."""

    def constants(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Tensors that are drawn once and not trained: a fixed embedding, say. Kept with the weights as buffers."""
        return {}

    def initial(self, generator: torch.Generator) -> Ensemble:
        """Matrices normal with variance 1 / fan-in, vectors zero; ``[restarts, *shape]``."""
        drawn = {}
        for name, shape in self.shapes().items():
            scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.0
            drawn[name] = scale * torch.randn(self.restarts, *shape, generator=generator)
        return drawn

    def draw(self, rows: int, generator: torch.Generator) -> Float[Tensor, "rows n_inputs"]:
        """Training samples, none of them empty."""
        # Not above: it would load Lightning, which looking at a finished run does without.
        from eigen_lightning.data.tms import nonempty_features

        return nonempty_features(
            rows, self.features, self.probability, generator, group_size=self.group_size, signed=self.signed_inputs
        )

    def build(self) -> "RegressionNetwork":
        """The network, all zeros."""
        return RegressionNetwork(self)

    def train(self, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train until the answers are explained well enough.

        Raises:
            UserError: where no network was good enough, with the best error.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "constants", type(self).__name__))
        constants = self.constants(generator)
        trained = train_until_accepted(RegressionProblem(self, constants), seed, MAX_ROUNDS)
        if -trained.score > self.max_error:
            raise UserError(
                f"expected a network that leaves at most {self.max_error:g} of the answers' mean square unexplained, "
                f"the best of {trained.restarts} leaves {-trained.score:.3g}; allow more with max_error"
            )
        facts = {"seed": seed, "rounds": trained.rounds, "restarts": trained.restarts, "error": -trained.score}
        return trained.weights | constants, facts | self.trained_on()

    def trained_on(self) -> dict[str, Any]:
        """How often features were present."""
        return {"probability": self.probability}

    def config(self) -> dict[str, Any]:
        """The shapes in addition to the parameters chosen."""
        return super().config() | {"shapes": {name: list(shape) for name, shape in self.shapes().items()}}

    def feature_inputs(self, values: int) -> list[Float[Tensor, "values n_inputs"]]:
        """For each feature, inputs on which it alone is present: evenly spaced values, for a group random ones."""
        if self.group_size > 1:
            generator = torch.Generator().manual_seed(0)
            strengths = torch.rand(values * self.group_size, self.group_size, generator=generator)
        else:
            strengths = torch.arange(1, values + 1)[:, None] / values
            if self.signed_inputs:
                strengths = torch.cat([strengths, -strengths])
        blocks = torch.eye(self.n_inputs).view(self.features, self.group_size, self.n_inputs)
        return [strengths @ block for block in blocks]


class RegressionNetwork(nn.Module):
    """A :class:`RegressionTarget`'s network; all zeros until weights are loaded."""

    def __init__(self, target: RegressionTarget) -> None:
        super().__init__()
        self._apply_to = target.apply
        self._names = list(target.shapes())
        for name, shape in target.shapes().items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        for name, constant in target.constants(torch.Generator()).items():
            self.register_buffer(name, torch.zeros_like(constant))
            self._names.append(name)

    def forward(self, inputs: Float[Tensor, "batch n_inputs"]) -> Float[Tensor, "batch n_out"]:
        """The outputs."""
        return self._apply_to({name: getattr(self, name) for name in self._names}, inputs)


class RegressionProblem(ToyProblem):
    """Mean squared error to the answers; the score is the negative share of their mean square left unexplained."""

    def __init__(self, target: RegressionTarget, constants: Mapping[str, Tensor]) -> None:
        self.name = type(target).__name__
        self.target = target
        self.constants = constants
        self.accepted_score = -target.max_error
        self.restarts = target.restarts  # type: ignore[misc]
        self.steps = target.steps  # type: ignore[misc]
        self.learning_rate = target.learning_rate  # type: ignore[misc]

    batch_size = 256

    def initial(self, generator: torch.Generator) -> Ensemble:
        """The target's own."""
        return self.target.initial(generator)

    def losses(self, ensemble: Ensemble, generator: torch.Generator) -> Float[Tensor, " restarts"]:
        """On a fresh batch."""
        return self._errors(ensemble, self.target.draw(self.batch_size, generator))[0]

    def final_losses(self, ensemble: Ensemble) -> Float[Tensor, " restarts"]:
        """On one large batch that is always the same."""
        return self._errors(ensemble, self._final_inputs())[0]

    def scores(self, ensemble: Ensemble) -> Float[Tensor, " restarts"]:
        """The negative share of the answers' mean square that is left."""
        error, size = self._errors(ensemble, self._final_inputs())
        return -error / size

    def _final_inputs(self) -> Tensor:
        return self.target.draw(FINAL_ROWS, torch.Generator().manual_seed(0))

    def _errors(self, ensemble: Ensemble, inputs: Tensor) -> tuple[Float[Tensor, " restarts"], Tensor]:
        answers = self.target.answer(self.constants, inputs)
        outputs = self.target.apply({**ensemble, **self.constants}, inputs)
        return (outputs - answers).square().mean(dim=(1, 2)), answers.square().mean()


def linear(inputs: Float[Tensor, "*any batch n"], matrix: Float[Tensor, "*any m n"]) -> Float[Tensor, "*any batch m"]:
    """``x W^T``, for one network or several."""
    return inputs @ matrix.mT


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1, by name.

    Raises:
        UserError: where one is.
    """
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"expected {name} of at least 1, got {size}; leave it out for the default")
