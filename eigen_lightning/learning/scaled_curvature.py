"""Curvature in the scale that the losses see, with what belongs to a sample computed once."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.curvature import Curvature, CurvatureOnBatch
from eigen_lightning.learning.memory import is_out_of_memory, rows_for
from eigen_lightning.learning.normalization import Scale, TraceNormalization, traces
from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.run.waiting import Waiting

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class ScaledCurvature:
    """d2D divided as :class:`TraceNormalization` says, in chunks of directions that fit into memory.

    Args:
        curvature: unscaled.
        normalization: None leaves curvature as it is.
        rows: directions evaluated at a time; None sizes it from the first batch and the memory budget.
        memory_budget: GiB for the tangents of the directions evaluated at a time; None takes a fraction of what is
            free.
        seed: the run's seed.
        like: U; its dtype is that of the probes.

    Attributes:
        scale: None until fitted, or where there is no normalization.
    """

    def __init__(
        self,
        curvature: Curvature,
        normalization: TraceNormalization | None,
        rows: int | None,
        memory_budget: float | None,
        seed: int,
        like: Tensor,
    ) -> None:
        self.curvature = curvature
        self.rows = rows
        self.memory_budget = memory_budget
        self.normalization = normalization
        self.scale: Scale | None = None
        self._traces: dict[int, Tensor] = {}
        self._surveyed = False
        self._prepared: tuple[Any, ...] = ()
        if normalization is not None:
            size = curvature.network.space.size
            self.probes = normalization.probe_directions(size, like.detach(), derive_seed(seed, "probes"))

    def to(self, device: torch.device) -> None:
        """Move the probes and what is kept of samples."""
        if self.normalization is not None:
            self.probes = self.probes.to(device)
        self._traces = {identity: trace.to(device) for identity, trace in self._traces.items()}

    def on(self, batch: Any, count: int, scaled: bool = True, keep: bool = False) -> CurvatureOnBatch:
        """d2D on a batch; what was prepared for it last is used again.

        Args:
            batch: inputs and their identities.
            count: how many directions will be evaluated; more or fewer are right, but slower.
            scaled: in the losses' scale.
            keep: as in :meth:`Curvature.at`.
        """
        if self.rows is None:
            self.rows = rows_for(self.curvature, batch.inputs, self.memory_budget)
        key = (batch.inputs, min(self.rows, count), scaled)
        if self._prepared and self._prepared[0] is key[0] and self._prepared[1:3] == key[1:]:
            return self._prepared[3]
        raw = self.curvature.at(batch.inputs, min(self.rows, count), batch.sample_id, keep)
        divisor = None if self.scale is None or not scaled else self.scale.divisor(self._traces_of(batch, raw))
        evaluate = raw if divisor is None else raw.divided_by(divisor)
        self._prepared = (*key, evaluate)
        return evaluate

    def values(
        self, directions: Float[Tensor, "K P"], batch: Any, scaled: bool = True, keep: bool = False
    ) -> Float[Tensor, "K batch *positions"]:
        """d of any number of directions, without gradients; arguments as in :meth:`on`.

        Directions may be held elsewhere than on the batch's device, where some at a time are evaluated.
        """

        def attempt() -> Tensor:
            with torch.no_grad():
                evaluate = self.on(batch, len(directions), scaled, keep)
                return torch.cat([evaluate(part.to(batch.inputs.device)) for part in directions.split(evaluate.rows)])

        return self._within_memory(attempt)

    def value_and_gradient(
        self, directions: Float[Tensor, "K P"], batch: Any, objective: Callable[[Tensor, slice], Tensor]
    ) -> tuple[Float[Tensor, "K batch *positions"], Float[Tensor, "K P"]]:
        """d of any number of directions, and the gradient of an objective that is a sum over them.

        One tangent pass and one cotangent pass a chunk of directions.

        Args:
            directions: rows.
            batch: inputs and their identities.
            objective: from scaled d of some rows, and which rows they are, to a number.
        """

        def attempt() -> tuple[Tensor, Tensor]:
            evaluate = self.on(batch, len(directions))
            curvature, gradient = [], []
            for first in range(0, len(directions), evaluate.rows):
                rows = slice(first, first + evaluate.rows)
                part = directions[rows].detach().requires_grad_()
                with torch.enable_grad():
                    each = evaluate(part)
                    gradient.append(torch.autograd.grad(objective(each, rows), part)[0])
                curvature.append(each.detach())
            return torch.cat(curvature), torch.cat(gradient)

        return self._within_memory(attempt)

    def _within_memory(self, attempt: Callable[[], Result]) -> Result:
        """What the attempt returns; where memory runs out, with half the directions at a time."""
        while True:
            try:
                return attempt()
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.rows is None or self.rows == 1:
                    raise
            self._prepared = ()
            self.rows = self.rows // 2
            log.warning("out of memory: %d directions are evaluated at a time from here on", self.rows)

    def survey(self, samples: Any, batch_size: int, device: torch.device) -> None:
        """Compute once, in an order that is always the same, what belongs to samples that return every epoch.

        Every process surveys all samples: which of them it is given in later epochs depends on chance, and what is
        kept must depend neither on that nor on where a run was resumed.

        Args:
            samples: a sample set that repeats.
            batch_size: samples at a time.
            device: where they are evaluated.
        """
        by_trace = self.normalization is not None and self.normalization.power > 0
        if not by_trace and getattr(self.curvature, "readout", None) is None:
            return
        with Waiting("Surveying the training samples", len(samples)) as waiting:
            for part in torch.arange(len(samples)).split(batch_size):
                batch = samples.batch(0, part)
                batch = type(batch)(*(tensor.to(device) for tensor in batch))
                raw = self.on(batch, len(self.probes) if by_trace else 1, scaled=False, keep=True)
                if by_trace:
                    found = traces(raw, self.probes)
                    self._traces.update(zip(batch.sample_id.tolist(), found, strict=True))
                    self._surveyed = True
                waiting.reach(int(part[-1]) + 1)

    def fit_scale(self, batches: Iterable[Any], gather: Callable[[Tensor], Tensor]) -> None:
        """Fit the scale to the surveyed samples, or where there was no survey to these batches.

        Args:
            batches: of this rank.
            gather: from this rank's traces to those of all ranks.

        Raises:
            UserError: where no sample has any curvature.
        """
        if self.normalization is None:
            return
        if self._traces:
            found = torch.stack(list(self._traces.values())).flatten()
        else:
            each = []
            for batch in batches:
                trace = traces(self.on(batch, len(self.probes), scaled=False), self.probes)
                each.append(trace.flatten())
                # The starts climb on these samples again and again.
                self._traces.update(zip(batch.sample_id.tolist(), trace, strict=True))
            found = gather(torch.cat(each))
        # Sorted, so that the sum does not depend on which rank had which sample.
        self.scale = Scale.fit(self.normalization, found.flatten().sort().values)

    def forget_start(self) -> None:
        """Drop what was kept of the start's samples, where no survey keeps all.

        They come again in training, and there must not depend on whether this process saw the start: a resumed one
        did not.
        """
        if not self._surveyed:
            self._traces, self._prepared = {}, ()

    def _traces_of(self, batch: Any, raw: CurvatureOnBatch) -> Float[Tensor, "batch *positions"] | None:
        assert self.scale is not None
        if self.scale.power == 0:
            return None
        identities = batch.sample_id.tolist() if self._traces else []
        if identities and all(identity in self._traces for identity in identities):
            return torch.stack([self._traces[identity] for identity in identities])
        return traces(raw, self.probes)
