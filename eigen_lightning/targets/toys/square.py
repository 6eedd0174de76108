"""A deep network that squares each of its inputs.

Source: Chrisman et al., "Identifying Sparsely Active Circuits Through Local Loss Landscape Decomposition", 2025.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu

from eigen_lightning.targets.toys.regression import RegressionTarget, check_sizes, linear


class SquareTarget(RegressionTarget):
    """Four layers with GELU between them, trained to ``x^2`` elementwise, inputs in [-1, 1].

    The features are the (input, sign) pairs: GELU has a branch for each sign, so that they use different parameters. It
    is trained until nothing more is gained: at half the steps and a third of the learning rate the true directions of
    all features share a bias (|cos| 0.6), and up to three of ten are learned as mixtures.
    """

    signed_inputs = True
    steps = 10000
    learning_rate = 0.01

    def __init__(
        self,
        inputs: int = 5,
        width: int = 20,
        layers: int = 4,
        probability: float = 0.05,
        parameters: Sequence[str] = ("*",),
        max_error: float = 0.05,
    ) -> None:
        """
        Args:
            inputs: inputs, and outputs.
            width: of the hidden layers.
            layers: weight matrices, each with a bias.
            probability: how often each input is present in the samples that the network is trained on, in (0, 1].
            parameters: names or patterns of the parameters to decompose, ``W1``, ``b1``, ``W2`` and so on.
            max_error: largest share of the squares' mean square that a network may leave unexplained.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(parameters, inputs, probability, max_error)
        check_sizes(width=width, layers=layers)
        self.width = width
        self.layers = layers
        self.feature_names = [f"input {index}, {sign}" for index in range(inputs) for sign in ("positive", "negative")]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """``W1 [width, inputs]``, ``b1 [width]``, ..., one pair a layer."""
        sizes = [self.features, *[self.width] * (self.layers - 1), self.features]
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.layers):
            shapes[f"W{layer + 1}"] = (sizes[layer + 1], sizes[layer])
            shapes[f"b{layer + 1}"] = (sizes[layer + 1],)
        return shapes

    def apply(self, weights: Mapping[str, Tensor], inputs: Float[Tensor, "batch n"]) -> Float[Tensor, "*any batch n"]:
        """The layers in turn."""
        hidden = inputs
        for layer in range(1, self.layers + 1):
            hidden = linear(hidden, weights[f"W{layer}"]) + weights[f"b{layer}"].unsqueeze(-2)
            if layer < self.layers:
                hidden = gelu(hidden)
        return hidden

    def answer(self, constants: Mapping[str, Tensor], inputs: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """The squares."""
        return inputs.square()

    def feature_inputs(self, values: int) -> list[Float[Tensor, "values n"]]:
        """For each input its positive values, then its negative ones."""
        strengths = torch.arange(1, values + 1)[:, None] / values
        return [sign * strengths @ row[None] for row in torch.eye(self.features) for sign in (1.0, -1.0)]
