"""What a target is: a trained network, seen as a function of the parameters chosen in it."""

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from eigen_lightning.curvature.divergence import Divergence
from eigen_lightning.curvature.parameters import ParameterSpace
from eigen_lightning.curvature.readout import Readout
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.recipe import Remembering


class Target(Remembering, ABC):
    """A trained network whose parameter space is to be decomposed.

    A new target writes :meth:`network_with_weights`; one that has to be trained first also :meth:`prepare`. The
    network's outputs have shape ``[batch, *positions, n_out]``; each (batch, position) pair is a sample.

    A target is no ``nn.Module`` on purpose: it stays out of checkpoints, optimizers and DDP's buckets.

    Attributes:
        default_divergence: the divergence where a run names none, by name or as an object.
        check: whether curvature is compared with the true divergence before training.
        static_graph: whether no shape, index or branch of the network depends on values, so that a trace of it may
            serve all batches of a shape.
        network: the network in evaluation mode, frozen; there after :meth:`load`.
        space: the chosen parameters; there after :meth:`load`.
    """

    default_divergence: str | Divergence = "mse"
    check: bool = True
    static_graph: bool = False
    network: nn.Module
    space: ParameterSpace

    def __init__(self, parameters: Sequence[str]) -> None:
        """
        Args:
            parameters: names or globs of the parameters to decompose.
        """
        self.patterns = tuple(parameters)

    def prepare(self, run: RunFolder, seed: int) -> None:
        """What one process must do before any can :meth:`load`: train the network, say. Nothing by default.

        Args:
            run: where trained weights are kept, so that a resumed run finds them.
            seed: seed of whatever chance the preparation uses.
        """

    @abstractmethod
    def network_with_weights(self, run: RunFolder) -> nn.Module:
        """The network holding its trained weights W0."""

    def load(self, run: RunFolder) -> None:
        """Take the network, freeze it and choose its parameters.

        Raises:
            UserError: where a pattern in ``parameters`` matches nothing.
        """
        self.network = self.network_with_weights(run).eval().requires_grad_(False)
        self._network_names = self.parameter_names()
        by_path = dict(self.network.named_parameters())
        available = {name: by_path[path] for name, path in self._network_names.items()}
        self.space = ParameterSpace.select(available, self.patterns)

    def parameter_names(self) -> dict[str, str]:
        """The name a person uses for each parameter, and its path in ``network.named_parameters()``."""
        return {name: name for name, _ in self.network.named_parameters()}

    @property
    def weights(self) -> dict[str, Tensor]:
        """W0 of the chosen parameters, by the names a person uses."""
        by_path = dict(self.network.named_parameters())
        return {name: by_path[self._network_names[name]] for name in self.space.names}

    def outputs(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Float[Tensor, "batch *positions n_out"]:
        """The network's outputs with the chosen parameters set to ``weights``; pure, so that torch.func can take it."""
        by_path = {self._network_names[name]: tensor for name, tensor in weights.items()}
        return functional_call(self.network, by_path, (inputs,))

    @property
    def readout(self) -> Readout | None:
        """The linear readout the outputs end in, where it holds none of the chosen parameters; None otherwise."""
        return None

    def hidden(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Float[Tensor, "batch *positions d"]:
        """The tensor before :attr:`readout`; pure like :meth:`outputs`."""
        raise TypeError(f"{type(self).__name__} has no linear readout to take the tensor before")

    def check_inputs(self, inputs: Tensor) -> None:
        """Refuse inputs the network cannot take. Called once a data set, before any work is spent on it.

        Raises:
            UserError: naming what the network takes and what came.
        """

    def heads(self) -> dict[str, tuple[int, int]]:
        """For chosen parameters that attention heads share: how many heads, along which axis; none by default."""
        return {}

    def randomized(self, seed: int) -> "Target":
        """A copy with random parameters of the same scale: matrices are drawn anew, vectors stay.

        Scale is kept since trained biases and normalizations are made for it.

        Raises:
            UserError: where the network cannot be copied.
        """
        try:
            copied = copy.deepcopy(self)
        # What torch and Python say of tensors that are computed and kept, of locks and of open files.
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"expected a network that can be copied, for as many directions on random weights, got: {error}; leave "
                "random_network out of Scorecard"
            ) from error
        generator = torch.Generator().manual_seed(seed)
        for parameter in copied.network.parameters():
            if parameter.ndim > 1:
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.data.copy_(drawn * parameter.double().std(correction=0).cpu())
        return copied

    def own_figures(
        self,
        directions: Float[Tensor, "R P"],
        d2D: Callable[[Tensor], Float[Tensor, "R samples ..."]],
    ) -> dict[str, Float[Tensor, " R"]]:
        """Figures of directions that only this target knows how to take; none by default.

        Args:
            directions: some, learned ones or controls.
            d2D: theirs on inputs of this target.

        Returns:
            A number for each direction by name; the scorecard shows their means.
        """
        return {}

    def config(self) -> dict[str, Any]:
        """What, besides the weights, makes this target the one it is; part of its fingerprint."""
        return {"class": type(self).__name__, "parameters": list(self.space.names)}

    def facts(self, run: RunFolder) -> dict[str, Any]:
        """What the manifest tells of where the weights come from; for a trained target, of its training."""
        return run.read_target()[1] if run.target.exists() else {}

    def fingerprint(self) -> str:
        """SHA-256 over the configuration and the chosen parameters' bytes, as hexadecimal."""
        digest = hashlib.sha256(json.dumps(self.config(), sort_keys=True).encode())
        for tensor in self.weights.values():
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Target":
        """Move the network; returns the target itself."""
        self.network.to(device=device, dtype=dtype)
        return self
