"""A classifier that ends in a linear readout, and fixed samples for it: all that metrics are cached for."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eigen_lightning.curvature import Readout
from eigen_lightning.data.generated import FixedSet
from eigen_lightning.data.stream import SampleSet, SampleStream
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets.target import Target


class ClassifierNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body = nn.Linear(5, 6)
        self.head = nn.Linear(6, 9)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x.to(self.body.weight.dtype)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))


class Hidden(nn.Module):
    def __init__(self, network: ClassifierNetwork) -> None:
        super().__init__()
        self.body = network.body
        self.of = [network]

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x.to(self.body.weight.dtype)))


class Classifier(Target):
    """36 parameters of the body; KL, pulled back through the head."""

    default_divergence = "kl"

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(["body.*"])
        self.dtype = dtype

    def network_with_weights(self, run: RunFolder) -> nn.Module:
        return ClassifierNetwork().to(self.dtype)

    @property
    def readout(self) -> Readout:
        return Readout(self.network.head.weight, self.network.head.bias)  # type: ignore[union-attr,arg-type]

    def hidden(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(Hidden(self.network), dict(weights), (inputs,))  # type: ignore[arg-type]


class Points(SampleStream):
    """Fixed points, the same every epoch."""

    def __init__(self, seed: int, batch_size: int = 8) -> None:
        super().__init__(batch_size, seed=seed)

    def sample_sets(self, seed: int) -> tuple[SampleSet, dict[str, SampleSet]]:
        generator = torch.Generator().manual_seed(seed)
        heldout, train = (torch.randn(count, 5, generator=generator) for count in (24, 64))
        return FixedSet("train", 24, train), {"heldout": FixedSet("heldout", 0, heldout)}

    def identity(self) -> dict[str, Any]:
        return {}
