"""A linear map through too few hidden dimensions (toy model of circuits in superposition, TMCS).

Source: Chrisman et al., "Identifying Sparsely Active Circuits Through Local Loss Landscape Decomposition", 2025.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from eigen_lightning.targets.toys.regression import RegressionTarget, check_sizes, linear

LARGEST_COEFFICIENT = 3.0


class TMCSTarget(RegressionTarget):
    """``f(x) = W2 g(W1 x)``, trained to ``A x`` for a random A, as many outputs as inputs; no biases.

    The features are the inputs: each uses a column of W1 and, through it, all of W2.
    """

    def __init__(
        self,
        features: int = 10,
        hidden: int = 5,
        activation: Literal["linear", "relu"] = "linear",
        probability: float = 0.05,
        parameters: Sequence[str] = ("*",),
        max_error: float = 0.5,
    ) -> None:
        """
        Args:
            features: inputs, and outputs.
            hidden: dimensions between them.
            activation: g.
            probability: how often each input is present in the samples that the network is trained on, in (0, 1].
            parameters: names or patterns of the parameters to decompose, ``W1`` and ``W2``.
            max_error: largest share of the answers' mean square that a network may leave unexplained; a map through
                fewer dimensions than it has inputs always leaves some.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(parameters, features, probability, max_error)
        check_sizes(hidden=hidden)
        self.n_hidden = hidden
        self.activation = activation

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """W1 and W2."""
        return {"W1": (self.n_hidden, self.features), "W2": (self.features, self.n_hidden)}

    def constants(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A, uniform in [0, 3)."""
        return {"A": LARGEST_COEFFICIENT * torch.rand(self.features, self.features, generator=generator)}

    def apply(self, weights: Mapping[str, Tensor], inputs: Float[Tensor, "batch n"]) -> Float[Tensor, "*any batch n"]:
        """``W2 g(W1 x)``."""
        hidden = linear(inputs, weights["W1"])
        return linear(relu(hidden) if self.activation == "relu" else hidden, weights["W2"])

    def answer(self, constants: Mapping[str, Tensor], inputs: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """``A x``."""
        return linear(inputs, constants["A"])

    def trained_on(self) -> dict[str, Any]:
        """What the shapes of the weights do not tell."""
        return super().trained_on() | {"activation": self.activation}

    def config(self) -> dict[str, Any]:
        """The activation in addition."""
        return super().config() | {"activation": self.activation}
