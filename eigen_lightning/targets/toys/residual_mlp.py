"""One MLP layer on a residual stream of embedded features.

Source: the residual MLPs of Braun et al., "Interpretability in Parameter Space: Minimizing Mechanistic Description
Length with Attribution-based Parameter Decomposition", 2025.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, relu

from eigen_lightning.run.errors import UserError
from eigen_lightning.targets.toys.regression import RegressionTarget, check_sizes, linear


class ResidualMLPTarget(RegressionTarget):
    """``f(x) = E^T (h + W_out relu(W_in h))`` with ``h = E x``, E fixed, trained to ``x + relu(x)``; no biases.

    The features are the inputs; where there are fewer neurons than features, each uses several.
    """

    signed_inputs = True
    steps = 4000
    learning_rate = 0.003

    def __init__(
        self,
        features: int = 20,
        neurons: int = 20,
        dimensions: int = 40,
        embedding: Literal["random", "orthogonal"] = "random",
        probability: float = 0.05,
        parameters: Sequence[str] = ("W_in", "W_out"),
        max_error: float = 0.2,
    ) -> None:
        """
        Args:
            features: inputs, and outputs.
            neurons: of the MLP.
            dimensions: of the residual stream.
            embedding: whether the unit columns of E are random or orthogonal to each other.
            probability: how often each input is present in the samples that the network is trained on, in (0, 1].
            parameters: names or patterns of the parameters to decompose, ``W_in`` and ``W_out``.
            max_error: largest share of the answers' mean square that a network may leave unexplained.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(parameters, features, probability, max_error)
        check_sizes(neurons=neurons, dimensions=dimensions)
        if embedding == "orthogonal" and dimensions < features:
            raise UserError(
                f"expected at least as many dimensions as features ({features}) for an orthogonal embedding, got "
                f"{dimensions}; raise dimensions, or set embedding: random"
            )
        self.neurons = neurons
        self.dimensions = dimensions
        self.embedding = embedding

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """W_in and W_out."""
        return {"W_in": (self.neurons, self.dimensions), "W_out": (self.dimensions, self.neurons)}

    def constants(self, generator: torch.Generator) -> dict[str, Tensor]:
        """E ``[dimensions, features]``, columns of unit length."""
        drawn = torch.randn(self.dimensions, self.features, generator=generator)
        return {"E": torch.linalg.qr(drawn)[0] if self.embedding == "orthogonal" else normalize(drawn, dim=0)}

    def apply(self, weights: Mapping[str, Tensor], inputs: Float[Tensor, "batch n"]) -> Float[Tensor, "*any batch n"]:
        """Embed, add what the MLP writes, read out."""
        stream = linear(inputs, weights["E"])
        written = linear(relu(linear(stream, weights["W_in"])), weights["W_out"])
        return (stream + written) @ weights["E"]

    def answer(self, constants: Mapping[str, Tensor], inputs: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """``x + relu(x)``."""
        return inputs + relu(inputs)

    def trained_on(self) -> dict[str, Any]:
        """What the shapes of the weights do not tell."""
        return super().trained_on() | {"embedding": self.embedding}

    def config(self) -> dict[str, Any]:
        """The embedding in addition."""
        return super().config() | {"embedding": self.embedding}
