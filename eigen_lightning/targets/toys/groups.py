"""Groups of inputs that are present together: features that are subspaces of parameter space, not single directions.

Source: the high-rank circuits of Chrisman et al., "Identifying Sparsely Active Circuits Through Local Loss Landscape
Decomposition", 2025.
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from eigen_lightning.targets.toys.regression import RegressionTarget, check_sizes, linear


class GroupsTarget(RegressionTarget):
    """``f(x) = relu(W2 W1 x + b)``, trained to return its inputs, of which a group at a time is present.

    Attributes:
        feature_rank: dimension of each group's subspace: as many as it has inputs.
    """

    steps = 4000

    def __init__(
        self,
        groups: int = 5,
        group_size: int = 5,
        hidden: int = 15,
        probability: float = 0.05,
        parameters: Sequence[str] = ("*",),
        max_error: float = 0.3,
    ) -> None:
        """
        Args:
            groups: how many groups of inputs there are.
            group_size: inputs of each.
            hidden: dimensions between inputs and outputs.
            probability: how often each group is present in the samples that the network is trained on, in (0, 1].
            parameters: names or patterns of the parameters to decompose, ``W1``, ``W2`` and ``b``.
            max_error: largest share of the inputs' mean square that a network may leave unexplained.

        Raises:
            UserError: where a number is out of range.
        """
        check_sizes(groups=groups, group_size=group_size, hidden=hidden)
        self.group_size = group_size
        super().__init__(parameters, groups, probability, max_error)
        self.feature_rank = group_size
        self.n_hidden = hidden
        self.feature_names = [f"group {index}" for index in range(groups)]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """W1, W2 and b."""
        n = self.n_inputs
        return {"W1": (self.n_hidden, n), "W2": (n, self.n_hidden), "b": (n,)}

    def apply(self, weights: Mapping[str, Tensor], inputs: Float[Tensor, "batch n"]) -> Float[Tensor, "*any batch n"]:
        """``relu(W2 W1 x + b)``."""
        hidden = linear(inputs, weights["W1"])
        return relu(linear(hidden, weights["W2"]) + weights["b"].unsqueeze(-2))

    def answer(self, constants: Mapping[str, Tensor], inputs: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """The inputs."""
        return inputs
