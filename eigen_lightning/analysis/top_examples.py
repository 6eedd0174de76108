"""The samples on which each direction's curvature is largest, exact over batches and ranks."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class TopExamples:
    """Per direction the n samples of largest d2D, largest first; ties by sample identity, then position.

    No dataclass, as torchmetrics would squeeze the tensors in one.

    Attributes:
        value: d2D.
        sample_id: identity; -1 where there were fewer than n samples.
        position: flat index over a sample's positions; 0 where it has none.
    """

    def __init__(
        self, value: Float[Tensor, "K n"], sample_id: Int[Tensor, "K n"], position: Int[Tensor, "K n"]
    ) -> None:
        self.value, self.sample_id, self.position = value, sample_id, position


class TopExamplesMetric(Metric):
    """Collects :class:`TopExamples` over a stream.

    Args:
        n_directions: K.
        n_examples: n.
    """

    full_state_update = False
    higher_is_better = None

    value: Tensor
    sample_id: Tensor
    position: Tensor

    def __init__(self, n_directions: int, n_examples: int = 20) -> None:
        super().__init__()
        shape = (n_directions, n_examples)
        self.n_examples = n_examples
        # Reduced by hand in compute: value, sample and position belong together.
        self.add_state("value", torch.full(shape, -torch.inf), dist_reduce_fx=None)
        self.add_state("sample_id", torch.full(shape, -1), dist_reduce_fx=None)
        self.add_state("position", torch.full(shape, -1), dist_reduce_fx=None)

    def update(self, curvature: Float[Tensor, "K batch *positions"], sample_id: Int[Tensor, " batch"]) -> None:
        """Take in one batch."""
        directions, batch = curvature.shape[:2]
        flat = curvature.reshape(directions, batch, -1)
        positions = torch.arange(flat.shape[2], device=flat.device)
        best = self._best(
            torch.cat([self.value, flat.flatten(1).to(self.value.dtype)], 1),
            torch.cat([self.sample_id, sample_id.repeat_interleave(len(positions)).expand(directions, -1)], 1),
            torch.cat([self.position, positions.repeat(batch).expand(directions, -1)], 1),
        )
        self.value, self.sample_id, self.position = best.value, best.sample_id, best.position

    def compute(self) -> TopExamples:
        """The best over all batches and ranks."""
        states = (self.value, self.sample_id, self.position)
        if self.value.ndim == 3:
            return self._best(*(state.permute(1, 0, 2).flatten(1) for state in states))
        return TopExamples(*states)

    def _best(self, value: Tensor, sample_id: Tensor, position: Tensor) -> TopExamples:
        order = position.sort(dim=1).indices
        # Two stable sorts make the last word the value, then the sample, then the position.
        for key, descending in ((sample_id, False), (value, True)):
            by_key = key.gather(1, order).sort(dim=1, descending=descending, stable=True).indices
            order = order.gather(1, by_key)
        order = order[:, : self.n_examples]
        return TopExamples(value.gather(1, order), sample_id.gather(1, order), position.gather(1, order))


def describe(found: TopExamples, samples: Any) -> list[list[dict[str, Any]]]:
    """What a person sees of each direction's examples, largest first.

    Args:
        found: values and identities.
        samples: the sample set they are of.
    """
    rows = zip(found.value.tolist(), found.sample_id.tolist(), found.position.tolist(), strict=True)
    return [
        [
            {"value": value, "sample_id": sample, **samples.describe(sample, position)}
            for value, sample, position in zip(*row, strict=True)
            if sample >= 0
        ]
        for row in rows
    ]
