"""A toy model of superposition with a hidden layer that does nothing: a feature spans two matrices.

Source: the TMS with a hidden identity layer of Bushnaq et al., "Stochastic Parameter Decomposition", 2025.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from eigen_lightning.targets.toys.tms import TMSNetwork, TMSTarget


class TMSIdentityNetwork(TMSNetwork):
    """``f(x) = relu(W^T A W x + b)``, A the identity; all zeros until weights are loaded.

    Attributes:
        A: ``[hidden, hidden]``.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__(features, hidden)
        self.A = torch.nn.Parameter(torch.zeros(hidden, hidden))

    def forward(self, inputs: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        """The features as the network reconstructs them."""
        return relu(inputs @ self.W.mT @ self.A.mT @ self.W + self.b)


class TMSIdentityTarget(TMSTarget):
    """A trained toy model of superposition with an identity between embedding and readout: parameters ``W``, ``A`` and
    ``b``."""

    def build(self) -> TMSIdentityNetwork:
        """The network, all zeros."""
        return TMSIdentityNetwork(self.features, self.n_hidden)

    def train(self, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train the network without the hidden layer, which changes nothing.

        Raises:
            UserError: where too few features were ever represented.
        """
        weights, facts = super().train(seed)
        return weights | {"A": torch.eye(self.n_hidden)}, facts
