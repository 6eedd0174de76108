"""What the toy targets share: trained here, once a run folder, and their features are known."""

from abc import abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets.target import Target
from eigen_lightning.targets.toys.training import one_thread


class ToyTarget(Target):
    """A tiny network with known features, trained when a run is prepared and kept in its folder.

    Attributes:
        n_inputs: how many inputs the network has.
        feature_names: what each feature is called, in order.
        feature_rank: dimension of a feature's subspace of parameter space: 1 where it is a single direction.
    """

    check = False
    feature_rank: int = 1
    n_inputs: int
    feature_names: list[str]

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with weights yet to be set."""

    @abstractmethod
    def train(self, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train the network.

        Returns:
            Its weights by name, and facts on the training that a person may want to know later.

        Raises:
            UserError: where no network good enough was found.
        """

    @abstractmethod
    def feature_inputs(self, values: int) -> list[Float[Tensor, "samples n_inputs"]]:
        """For each feature, inputs on which it alone is present, at most ``values`` of them."""

    def prepare(self, run: RunFolder, seed: int) -> None:
        """Train the network, unless the run folder holds it already.

        Raises:
            UserError: where no network good enough was found.
        """
        if not run.target.exists():
            with one_thread():
                run.write_target(*self.train(seed))

    def network_with_weights(self, run: RunFolder) -> nn.Module:
        """The network that :meth:`prepare` trained.

        Raises:
            UserError: where there is none yet, or it is not the one configured.
        """
        if not run.target.exists():
            raise UserError(
                f"expected the trained network in {run.target}, which does not exist; prepare the run first"
            )
        network = self.build()
        weights, facts = run.read_target()
        self._check_stored(run, network, weights, facts)
        network.load_state_dict(weights)
        return network

    def check_inputs(self, inputs: Tensor) -> None:
        """Refuse inputs that are not ``[batch, n_inputs]`` numbers.

        Raises:
            UserError: naming both shapes.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.n_inputs:
            shape = list(inputs.shape)
            raise UserError(
                f"expected inputs of shape [batch, {self.n_inputs}] for {type(self).__name__}, got {shape}; "
                f"give the data as many features as the target"
            )

    def trained_on(self) -> dict[str, Any]:
        """Those settings of the training that a stored network must agree with, as its facts name them."""
        return {}

    def _check_stored(
        self, run: RunFolder, network: nn.Module, weights: dict[str, Tensor], facts: dict[str, Any]
    ) -> None:
        expected = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        found = {name: list(tensor.shape) for name, tensor in weights.items()}
        settings = self.trained_on()
        for wanted, stored in ((expected, found), (settings, {name: facts.get(name) for name in settings})):
            if wanted != stored:
                described = [", ".join(f"{name} {value}" for name, value in side.items()) for side in (wanted, stored)]
                raise UserError(
                    f"expected a network with {described[0]}, but {run.target} holds one with {described[1]}; "
                    f"choose another run folder, or start this one over"
                )
