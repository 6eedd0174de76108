"""A network of many parameters that costs little to run."""

import torch
from torch import Tensor, nn

from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets.target import Target


class WideNetwork(nn.Module):
    """``f_o(x) = sum_j gelu(w_oj . x + b_oj)``: two inputs, four outputs, three parameters a node."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(nodes, 2, generator=generator))
        self.bias = nn.Parameter(torch.randn(nodes, generator=generator))

    def forward(self, inputs: Tensor) -> Tensor:
        nodes = nn.functional.gelu(inputs @ self.weight.T + self.bias)
        return nodes.unflatten(-1, (4, -1)).sum(-1)


class Wide(Target):
    """P = 3 nodes; takes the samples of XOR."""

    def __init__(self, nodes: int) -> None:
        super().__init__(["*"])
        self.nodes = nodes

    def network_with_weights(self, run: RunFolder) -> nn.Module:
        return WideNetwork(self.nodes)
