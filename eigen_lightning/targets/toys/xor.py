"""XOR in six numbers: two GELU nodes whose outputs are summed."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from eigen_lightning.run.errors import UserError
from eigen_lightning.targets.toys.toy import ToyTarget
from eigen_lightning.targets.toys.training import Ensemble, ToyProblem, train_until_accepted

INPUTS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
LABELS = (0.0, 1.0, 1.0, 0.0)
MAX_ROUNDS = 20


class XORNetwork(nn.Module):
    """``f(x) = sum_j gelu(w_j . x + b_j)`` over two nodes; all zeros until weights are loaded.

    Attributes:
        weight: ``[2, 2]``, a row a node.
        bias: ``[2]``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, inputs: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch 1"]:
        """The network's answer, near 1 where exactly one input is 1."""
        return gelu(inputs @ self.weight.mT + self.bias).sum(dim=-1, keepdim=True)


class XORProblem(ToyProblem):
    """The truth table; the score is the negative mean squared error over it."""

    name = "XOR network"
    steps = 1000
    learning_rate = 0.05

    def __init__(self, max_mse: float) -> None:
        self.accepted_score = -max_mse

    def initial(self, generator: torch.Generator) -> Ensemble:
        """Uniform in +-1/sqrt(2), float64: the truth table can be met to the last digit."""

        def uniform(*shape: int) -> Tensor:
            numbers = torch.rand(self.restarts, *shape, generator=generator, dtype=torch.float64)
            return (2 * numbers - 1) / math.sqrt(2)

        return {"weight": uniform(2, 2), "bias": uniform(2)}

    def losses(self, ensemble: Ensemble, generator: torch.Generator) -> Float[Tensor, " restarts"]:
        """Mean squared error over the four inputs; nothing is drawn."""
        return self.final_losses(ensemble)

    def final_losses(self, ensemble: Ensemble) -> Float[Tensor, " restarts"]:
        """Mean squared error over the four inputs."""
        inputs, labels = ensemble["weight"].new_tensor(INPUTS), ensemble["weight"].new_tensor(LABELS)
        outputs = gelu(inputs @ ensemble["weight"].mT + ensemble["bias"][:, None]).sum(dim=-1)
        return (outputs - labels).square().mean(dim=1)

    def scores(self, ensemble: Ensemble) -> Float[Tensor, " restarts"]:
        """The negative mean squared error."""
        return -self.final_losses(ensemble)


class XORTarget(ToyTarget):
    """The XOR network, trained to the truth table."""

    n_inputs = 2

    def __init__(self, parameters: Sequence[str] = ("*",), max_mse: float = 1e-3) -> None:
        """
        Args:
            parameters: names or patterns of the parameters to decompose, ``weight`` and ``bias``.
            max_mse: largest mean squared error over the truth table at which a trained network is taken. What training
                reaches is about 1e-14, float32's limit.

        Raises:
            UserError: where ``max_mse`` is not positive.
        """
        super().__init__(parameters)
        if not max_mse > 0:
            raise UserError(f"expected a positive max_mse, got {max_mse}; use 0.001, say")
        self.max_mse = max_mse
        self.feature_names = [f"[{a:.0f}, {b:.0f}]" for a, b in INPUTS[1:]]

    def build(self) -> XORNetwork:
        """The network, all zeros."""
        return XORNetwork()

    def train(self, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train to the truth table.

        Raises:
            UserError: where no network reached ``max_mse``, with the best error.
        """
        trained = train_until_accepted(XORProblem(self.max_mse), seed, MAX_ROUNDS)
        if trained.loss > self.max_mse:
            raise UserError(
                f"expected an XOR network with a mean squared error of at most {self.max_mse:g}, the best of "
                f"{trained.restarts} has {trained.loss:.3g}; allow more with max_mse, or take another seed"
            )
        facts = {"seed": seed, "rounds": trained.rounds, "restarts": trained.restarts, "mse": trained.loss}
        return trained.weights, facts

    def feature_inputs(self, values: int) -> list[Float[Tensor, "1 2"]]:
        """The three inputs that are not zero, each as a feature with one sample."""
        return [torch.tensor([point]) for point in INPUTS[1:]]
