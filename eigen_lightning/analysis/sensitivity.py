"""How much any step of the weights moves the outputs on held-out samples: what random samples are matched by."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eigen_lightning.analysis.intervention import Samples
from eigen_lightning.curvature import Linearizer
from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.run.waiting import Waiting

if TYPE_CHECKING:
    from eigen_lightning.data.stream import SampleSet

POOL = 4096
"""Samples from which random ones are drawn."""


class SensitivityPool:
    """Held-out samples, with how much a random step of the chosen parameters moves the output on each.

    Attributes:
        available: held-out samples in all.
        sample_id: identity of each pool sample.
        position: its position; None where samples have none.
        sensitivity: of each pool sample.
    """

    position: Int[Tensor, " pool"] | None = None

    def __init__(self, linearizer: Linearizer, samples: "SampleSet", seed: int) -> None:
        self._linearizer = linearizer
        each = self._positions(samples)
        self.available = len(samples) * max(1, each)
        generator = torch.Generator().manual_seed(derive_seed(seed, "sensitivity"))
        chosen = torch.randperm(self.available, generator=generator)[:POOL].sort().values
        index = chosen // max(1, each)
        self.sample_id = samples.batch(0, index).sample_id
        if each:
            self.position = chosen % each
        parts = []
        with Waiting("Measuring how sensitive held-out samples are", len(chosen)) as waiting:
            for part in torch.arange(len(chosen)).split(64 if each else 1024):
                position = None if self.position is None else self.position[part]
                parts.append(self.sensitivity_of(samples, self.sample_id[part], position))
                waiting.reach(int(part[-1]) + 1)
        self.sensitivity = torch.cat(parts)

    def samples(self, of: "SampleSet", sample_id: Tensor, position: Tensor | None) -> Samples:
        """The inputs of samples, on the network's device."""
        device = self._linearizer.origin.device
        return Samples(_inputs_of(of, sample_id).to(device), None if position is None else position.to(device))

    def sensitivity_of(self, of: "SampleSet", sample_id: Tensor, position: Tensor | None) -> Float[Tensor, " n"]:
        """How sensitive the samples named are: the trace of each one's Hessian."""
        traces = self._linearizer(_inputs_of(of, sample_id).to(self._linearizer.origin.device)).trace.cpu()
        return traces if position is None else traces.flatten(1)[torch.arange(len(traces)), position]

    def _positions(self, samples: "SampleSet") -> int:
        """How many positions a sample has; 0 where outputs have none."""
        network = self._linearizer.network
        inputs = samples.batch(0, torch.arange(1)).inputs.to(self._linearizer.origin.device)
        with torch.no_grad():
            outputs = network.outputs(network.weights, inputs)
        return outputs[0, ..., 0].numel() if outputs.ndim > 2 else 0


def _inputs_of(samples: "SampleSet", sample_id: Int[Tensor, " n"]) -> Any:
    return samples.batch(0, torch.tensor([samples.locate(identity)[1] for identity in sample_id.tolist()])).inputs
