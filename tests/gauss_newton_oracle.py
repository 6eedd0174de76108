"""The mean Gauss-Newton matrix by another library, curvlinops (Dangel et al., arXiv 2501.19183)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigen_lightning.curvature import Network


class _Module(nn.Module):
    """A network as curvlinops takes it: the chosen parameters alone, positions of a sequence as samples."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.chosen = nn.ParameterList(network.weights.values())

    def forward(self, inputs: Tensor) -> Tensor:
        weights = dict(zip(self.network.weights, self.chosen, strict=True))
        return self.network.outputs(weights, inputs).flatten(0, -2)


class OracleProduct:
    """``H u``, H the mean over samples of J^T H_out J, by ``curvlinops.GGNLinearOperator``.

    Args:
        network: with its trained weights.
        loss: ``CrossEntropyLoss``, whose Hessian by the logits is that of both our categorical divergences, or
            ``MSELoss``, which like ours is a mean over outputs; both with the mean over samples as reduction.
        inputs: one batch.
    """

    def __init__(self, network: Network, loss: nn.Module, inputs: Tensor) -> None:
        # A second to import, and absent where the development extra is.
        from curvlinops import GGNLinearOperator

        module = _Module(network)
        with torch.no_grad():
            outputs = module(inputs)
        # The Hessian of either loss by the outputs is the same for any label.
        labels = outputs if isinstance(loss, nn.MSELoss) else torch.zeros(len(outputs), dtype=torch.long)
        self.operator: Any = GGNLinearOperator(
            module, loss, list(module.chosen), [(inputs, labels)], check_deterministic=False
        )

    def __call__(self, directions: Float[Tensor, "K P"], at_once: int = 8) -> Float[Tensor, "K P"]:
        """The product with each direction, ``at_once`` of them together: logits of each are held."""
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return torch.cat([(self.operator @ part.T).T for part in directions.split(at_once)])
