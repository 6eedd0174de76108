"""The two stages of a batch: steepness is raised, interference lowered."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from eigen_lightning.curvature import PartwiseSteepness, losses
from eigen_lightning.learning.finite import check_finite
from eigen_lightning.learning.layout import Whole
from eigen_lightning.learning.parts import split, steepness_of_parts
from eigen_lightning.learning.polar import PolarAscent
from eigen_lightning.learning.precision import in_float32
from eigen_lightning.learning.scaled_curvature import ScaledCurvature


class TwoStageLearning(LightningModule):
    """A training step by manual optimization, for a module that has directions and their curvature.

    Attributes:
        U: the directions.
        layout: where their rows are.
        scaled: their curvature, in the losses' scale.
        n_directions: K.
        steps_per_batch: equal parts of a batch, each learned from in turn.
        interference_weight: lambda.
        interference_form: of the loss that stage 2 lowers.
        stage2_curvature: whether stage 2 evaluates curvature again.
    """

    U: nn.Parameter
    layout: Whole
    scaled: ScaledCurvature
    n_directions: int
    steps_per_batch: int
    interference_weight: float
    interference_form: losses.InterferenceForm
    stage2_curvature: Literal["fresh", "stale"]

    @torch.no_grad()
    @in_float32
    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers = self._optimizers()
        logs = (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        steepness = None
        if self._ascends_alone(optimizers[0].optimizer):
            steepness = steepness_of_parts(self.scaled, batch, self.steps_per_batch, len(self._own_rows))
        if steepness is not None:
            values = self._ascend(optimizers[0], steepness, batch, logs)
        else:
            parts = split(batch, self.steps_per_batch)
            # Lightning counts each step of its own wrapper in global_step: only the last of a batch goes through it.
            values = [self._two_stages(optimizers, part, last=part is parts[-1]) for part in parts]
        if logs:
            for each in values:
                each["steepness"] = self.layout.sum_over_rows(each["steepness"])
            mean = {name: torch.stack([each[name] for each in values]).mean() for name in values[-1]}
            self.log_dict({f"train/{name}": value for name, value in mean.items()}, sync_dist=True)

    def _ascends_alone(self, stage1: Optimizer) -> bool:
        """Whether stage 1 is all there is, now and later."""
        return self._excludes_interference(stage1) and stage1.param_groups[0]["release_after"] is None

    def _ascend(self, optimizer: Any, steepness: PartwiseSteepness, batch: Any, logs: bool) -> list[dict[str, Tensor]]:
        """All steps on a batch of polar ascent without interference, with what is logged of each."""
        directions, stage1, values = self._own_rows, optimizer.optimizer, []

        def ascents() -> Iterator[Tensor]:
            for part in range(len(steepness)):
                if logs:
                    values.append({"steepness": steepness.value(part, directions)})
                ascent = self.layout.mean(steepness.gradient(part, directions))
                if not self.layout.all_agree(math.isfinite(ascent.sum().item())):
                    given = split(batch, len(steepness))[part]
                    check_finite(self, 1, ascent, self.scaled.values(directions, given), given)
                yield self.layout.like(self.U, ascent)

        steps = ascents()
        stage1.ascend(self.U, islice(steps, len(steepness) - 1))
        self.U.grad = -next(steps)
        self._step(optimizer, counted=True)
        return values

    def _two_stages(self, optimizers: Sequence[Any], batch: Any, last: bool) -> dict[str, Tensor]:
        curvature, gradient = self.scaled.value_and_gradient(
            self._own_rows, batch, lambda each, _: -losses.steepness(each)
        )
        gradient = self.layout.mean(gradient)
        check_finite(self, 1, gradient, curvature, batch)
        self.U.grad = self.layout.like(self.U, gradient)
        has_stage2 = not self._excludes_interference(optimizers[0].optimizer)
        self._step(optimizers[0], counted=last and not has_stage2)
        values = {"steepness": losses.steepness(curvature)}
        if has_stage2:
            values["interference"], gradient = self._interference_gradient(curvature, batch)
            check_finite(self, 2, gradient, curvature, batch)
            self.U.grad = self.layout.like(self.U, gradient)
            self._step(optimizers[-1], counted=last)
        return values

    def _optimizers(self) -> Sequence[Any]:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def _step(self, optimizer: Any, counted: bool) -> None:
        (optimizer if counted else optimizer.optimizer).step()
        # Rows of polar factors have unit norm.
        if not isinstance(optimizer.optimizer, PolarAscent):
            self._own_rows.copy_(nn.functional.normalize(self._own_rows, dim=-1))

    def _interference_gradient(self, curvature: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """The interference over all ranks' samples and its gradient times lambda, of the directions evaluated here."""
        fresh, directions, own = self.stage2_curvature == "fresh", self._own_rows, self.layout.own(self.n_directions)
        if fresh:
            curvature = self.scaled.values(directions, batch)
        everyones = self.layout.gather(curvature)
        replicas = self.layout.replicas
        # The statistic is summed over ranks before any square root, so that N ranks equal one process exactly.
        coactivation = self.layout.sum(losses.coactivation(everyones))
        scope = (self.interference_form, curvature[0].numel() * replicas, batch.inputs.numel() * replicas)
        length = directions.norm(dim=-1, keepdim=True)
        unit = directions / length
        cosine, times_unit = self.layout.cosines(unit)
        leaf = cosine.requires_grad_()
        with torch.enable_grad():
            value = losses.interference(coactivation, leaf, *scope)
            slope = torch.autograd.grad(value, leaf)[0]
        gradient = times_unit(slope + slope.T)
        # Interference is of directions: it does not change along them.
        gradient = (gradient - (gradient * unit).sum(-1, keepdim=True) * unit) / length
        if fresh:
            cotangent = losses.interference_by_curvature(everyones, coactivation, cosine.detach(), *scope, rows=own)
            _, through = self.scaled.value_and_gradient(
                directions, batch, lambda each, rows: (each * cotangent[rows]).sum()
            )
            gradient = gradient + self.layout.sum(through)
        return value.detach(), gradient * self.interference_weight

    def _excludes_interference(self, stage1: Optimizer) -> bool:
        return isinstance(stage1, PolarAscent) and stage1.excludes_interference(self.U)

    @property
    def _own_rows(self) -> Float[Tensor, "k P"]:
        """The directions that this process evaluates: all, or where U is split its share; writing to them is to U."""
        return self.layout.local(self.U)
