"""Targets of a user's own that are not what a target must be."""

import torch
from torch import Tensor, nn

from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets.target import Target


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.spoiled(inputs @ self.weight.T)

    def spoiled(self, outputs: Tensor) -> Tensor:
        raise NotImplementedError


class Dropping(Network):
    def spoiled(self, outputs: Tensor) -> Tensor:
        # As some models do: active whatever the mode.
        return nn.functional.dropout(outputs + 1, 0.5, training=True)


class Nothing(Network):
    def spoiled(self, outputs: Tensor) -> Tensor:
        return outputs / 0 - outputs / 0


class DropsOut(Target):
    network_class: type[Network] = Dropping

    def __init__(self) -> None:
        super().__init__(["*"])

    def network_with_weights(self, run: RunFolder) -> nn.Module:
        return self.network_class()


class NotANumber(DropsOut):
    network_class = Nothing


class Spoiling(nn.Module):
    """Finite everywhere, but its curvature overflows once an input's first feature is large enough.

    Even where U is all but blind to that feature.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3, 5))

    def forward(self, inputs: Tensor) -> Tensor:
        scale = torch.where(inputs[:, :1] > 0.97, 1e37, 1.0)
        return inputs @ self.weight.T * scale


class Spoils(DropsOut):
    network_class = Spoiling  # type: ignore[assignment]
