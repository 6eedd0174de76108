"""The LightningModule that learns the directions, in two stages a batch."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from eigen_lightning.curvature import (
    Curvature,
    Divergence,
    GaussNewton,
    MetricCache,
    Nested,
    divergence_named,
    losses,
)
from eigen_lightning.curvature.readout import metric_pays
from eigen_lightning.learning import checkpoint_state
from eigen_lightning.learning.layout import layout_of
from eigen_lightning.learning.normalization import TraceNormalization
from eigen_lightning.learning.polar import PolarAscent
from eigen_lightning.learning.precision import in_float32
from eigen_lightning.learning.scaled_curvature import ScaledCurvature
from eigen_lightning.learning.starts import Starts, climb, random_rows
from eigen_lightning.learning.two_stages import TwoStageLearning
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.seeding import run_seed
from eigen_lightning.targets.checks import check_samples
from eigen_lightning.targets.target import Target

log = logging.getLogger(__name__)


def default_stage2(params: Any) -> Optimizer:
    """Adam with a learning rate of 0.01."""
    return Adam(params, lr=0.01)


class SparseEigendecomposition(TwoStageLearning):
    """Learns K unit directions U in a target's parameter space, steep on few samples and without interference.

    Each batch has two stages, each an optimizer step followed by renormalizing the rows of U: stage 1 raises the
    steepness, in chunks of U; stage 2 lowers the interference. ``global_step`` counts batches.

    Args:
        target: the network to decompose.
        n_directions: K.
        divergence: ``mse``, ``kl`` or ``cross_entropy``, or an object of your own; null takes the target's default.
        curvature: ``gauss_newton`` (one forward-mode product) or ``nested`` (two; the reference).
        stage1: the optimizer of stage 1. PolarAscent keeps rows orthonormal while K <= P, where interference is zero
            by construction: stage 2 is then left out until they are released.
        stage2: the optimizer of stage 2; null shares stage 1's, as published. PolarAscent wants it shared: its steps
            start from its average, where alone stage 2 leaves a trace.
        interference_weight: lambda, the weight of the interference.
        interference_form: ``squared``, or ``norm`` as published.
        stage2_curvature: ``fresh`` re-evaluates d2D of the updated U and differentiates through it; ``stale`` takes
            stage 1's as a constant, as published.
        normalization: how curvatures are scaled; null leaves them as they are, as published.
        starts: how U starts; null takes one random start of independent rows, as published.
        steps_per_batch: equal parts of a batch that are learned from one after another, each by a step of its own. What
            Lightning does once a batch (progress, logging, checkpoints) and what can be computed for many samples at
            once is then paid once for all of them: on a toy network that is most of a step.
        readout: ``on`` pulls the output metric back through a linear readout where there is one, ``off`` goes through
            the outputs, ``auto`` takes what is less work for this K and number of epochs.
        metric_top_k: form that metric from this many of the likeliest outputs, and report in the manifest how much
            probability that leaves out; null is exact.
        rows: directions evaluated at a time; null sizes it from the memory budget and the first batch.
        memory_budget: GiB for the tangents of the directions evaluated at a time; null takes an eighth of what is free.
        cache_gib: memory for metrics of samples that return every epoch, in GiB; more goes to a temporary file.

    Raises:
        UserError: naming the value that is out of range.
    """

    def __init__(
        self,
        target: Target,
        n_directions: int,
        divergence: str | Divergence | None = None,
        curvature: Literal["gauss_newton", "nested"] = "gauss_newton",
        stage1: OptimizerCallable = PolarAscent,
        stage2: OptimizerCallable | None = default_stage2,
        interference_weight: float = 1.0,
        interference_form: losses.InterferenceForm = "squared",
        stage2_curvature: Literal["fresh", "stale"] = "fresh",
        normalization: TraceNormalization | None = TraceNormalization(),  # noqa: B008 - frozen
        starts: Starts | None = Starts(),  # noqa: B008 - frozen
        steps_per_batch: int = 1,
        readout: Literal["auto", "on", "off"] = "auto",
        metric_top_k: int | None = None,
        rows: int | None = None,
        memory_budget: float | None = None,
        cache_gib: float = 1.0,
    ) -> None:
        super().__init__()
        counts = {
            "n_directions": n_directions,
            "steps_per_batch": steps_per_batch,
            "rows": rows,
            "metric_top_k": metric_top_k,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise UserError(f"expected model.{name} of at least 1, got {count}")
        amounts = {"interference_weight": interference_weight, "memory_budget": memory_budget, "cache_gib": cache_gib}
        for name, amount in amounts.items():
            if amount is not None and not 0 <= amount < float("inf"):
                raise UserError(f"expected model.{name} of at least 0, got {amount}")
        self.automatic_optimization = False
        # Trained once for all processes and kept in the run folder, which all see.
        self.prepare_data_per_node = False
        self.target = target
        self.n_directions = n_directions
        self.divergence = (
            divergence_named(divergence or target.default_divergence)
            if not isinstance(divergence, Divergence)
            else divergence
        )
        self.curvature_name = curvature
        self.make_stage1, self.make_stage2 = stage1, stage2
        self.interference_weight = interference_weight
        self.interference_form = interference_form
        self.stage2_curvature = stage2_curvature
        self.normalization, self.starts = normalization, starts
        self.steps_per_batch = steps_per_batch
        self.readout = readout
        self.metric_top_k = metric_top_k
        self.rows_wanted = rows
        self.memory_budget = memory_budget
        self.cache_gib = cache_gib
        self.started = False

    # ---------------------------------------------------------------------------------------------- life cycle

    @property
    def run_folder(self) -> RunFolder:
        """Where this run's results go: the trainer's ``default_root_dir``."""
        return RunFolder(self.trainer.default_root_dir)

    def prepare_data(self) -> None:
        self.target.prepare(self.run_folder, run_seed())

    def setup(self, stage: str) -> None:
        if hasattr(self, "curvature"):
            return
        self.target.load(self.run_folder)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            for samples in (data.train_set, *data.evaluation_sets.values()):
                check_samples(self.target, samples)
        seed = run_seed()
        like = next(iter(self.target.weights.values()))
        self.layout = layout_of(self.trainer, self.n_directions, self.target.space.size)
        if data is not None and stage == "fit":
            self._check_parts(data.batch_size)
        self.curvature = self._make_curvature()
        self.scaled = ScaledCurvature(
            self.curvature, self.normalization, self.rows_wanted, self.memory_budget, seed, like
        )

    def _check_parts(self, batch_size: int) -> None:
        parts = self.steps_per_batch * self.layout.replicas
        if batch_size % parts:
            raise UserError(
                f"expected a data.batch_size that {self.layout.replicas} device(s) and model.steps_per_batch of "
                f"{self.steps_per_batch} cut in equal parts, got {batch_size}; use {-(-batch_size // parts) * parts}"
            )

    def configure_model(self) -> None:
        if not hasattr(self, "U"):
            rows = self._start_rows(0) if self.starts else nn.functional.normalize(self._random_rows(0), dim=-1)
            self.U = self.layout.parameter(rows.to(next(iter(self.target.weights.values())).dtype))

    def _random_rows(self, number: int) -> Float[Tensor, "k P"]:
        own = self.layout.own(self.n_directions)
        return random_rows(self.n_directions, self.target.space.size, run_seed(), number, own)

    def _start_rows(self, number: int) -> Float[Tensor, "k P"]:
        """This process's rows of a random start, orthonormal in groups of at most P."""
        return self.layout.polar(self._random_rows(number))

    def _make_curvature(self) -> Curvature:
        if self.curvature_name == "nested":
            return Nested(self.target, self.divergence)
        readout = self.target.readout
        evaluations = self.n_directions * max(1, self.trainer.max_epochs or 1)
        by_metric = self.readout != "off" and readout is not None
        if by_metric and readout is not None:
            by_metric = self.readout == "on" or self.metric_top_k is not None or metric_pays(readout, evaluations)
            path = "the metric pulled back to the tensor before it" if by_metric else "the outputs themselves"
            log.info(
                "linear readout %d x %d, %d directions times epochs: curvature through %s",
                *readout.weight.shape,
                evaluations,
                path,
            )
        return GaussNewton(
            self.target,
            self.divergence,
            readout="auto" if by_metric else "off",
            cache=MetricCache(int(self.cache_gib * 2**30)),
            metric_top_k=self.metric_top_k,
        )

    @property
    def rows(self) -> int:
        """How many directions are evaluated at a time; one chunk of all where no batch has been seen yet."""
        return min(self.scaled.rows or self.n_directions, self.n_directions)

    def curvature_facts(self) -> dict[str, Any]:
        """What the manifest tells of how curvature is computed."""
        pulled_back = getattr(self.curvature, "readout", None) is not None
        return {
            "method": self.curvature_name,
            "divergence": type(self.divergence).__name__,
            "pulled_back_metric": pulled_back,
            "probability_left_out": self.curvature.dropped.facts() if isinstance(self.curvature, GaussNewton) else None,
            "directions_at_a_time": self.scaled.rows,
            "scale": None if self.scaled.scale is None else asdict(self.scaled.scale),
        }

    def configure_optimizers(self) -> list[Optimizer]:
        stage1 = self.make_stage1([self.U])
        if self.make_stage2 is None:
            return [stage1]
        if self._excludes_interference(stage1) and stage1.param_groups[0]["release_after"] is None:
            return [stage1]
        return [stage1, self.make_stage2([self.U])]

    def on_fit_start(self) -> None:
        self._to_device()

    def on_validation_start(self) -> None:
        self._to_device()

    def on_test_start(self) -> None:
        self._to_device()

    def on_predict_start(self) -> None:
        self._to_device()

    def _to_device(self) -> None:
        self.target.to(self.device)
        self.scaled.to(self.device)

    def on_train_start(self) -> None:
        samples = getattr(getattr(self.trainer, "datamodule", None), "train_set", None)
        if getattr(samples, "repeats", False) and self.trainer.max_epochs != 1:
            self.scaled.survey(samples, self.trainer.datamodule.batch_size, self.device)  # type: ignore[attr-defined]
        if self.trainer.precision == "bf16-mixed":
            log.warning("bf16-mixed: curvature, losses and steps stay in float32, as bfloat16 would leave 1e-3 of them")
        if self.make_stage2 is not None and len(self.trainer.optimizers) == 1:
            log.info("stage 1 keeps the directions orthonormal: no interference is possible, stage 2 is left out")
        if not self.started:
            self._start()
            self.scaled.forget_start()
            self.started = True

    def _start(self) -> None:
        """Fit the scale and choose the best of several starts, on the first samples of the training stream."""
        if self.normalization is None and self.starts is None:
            return
        batches = list(self._first_batches((self.starts or Starts()).samples))
        self.scaled.fit_scale(batches, self.layout.of_all_samples)
        if self.starts is None or self.starts.steps == 0:
            return
        own = self._own_rows
        candidates = torch.stack([self._start_rows(number).to(own) for number in range(self.starts.count)])
        candidates, score = climb(candidates, self.scaled, batches, self.starts.steps, self.layout)
        own.copy_(candidates[int(score.argmax())])

    def _first_batches(self, samples: int) -> Iterator[Any]:
        seen = 0
        loader = self.trainer.train_dataloader
        # Not by iterating the loader: one with workers has a single iterator, and training would miss these batches.
        for key in loader.sampler:
            batch = self.trainer.strategy.batch_to_device(loader.dataset[key], self.device)
            yield batch
            seen += len(batch.inputs) * self.layout.replicas
            if seen >= samples:
                return

    def curvatures(self, batch: Any) -> Float[Tensor, "K batch *positions"]:
        """d2D of every direction on every sample of a batch, unscaled."""
        return self.layout.gather(self.scaled.values(self._own_rows, batch, scaled=False, keep=True))

    def whole_directions(self) -> Float[Tensor, "K P"] | None:
        """U where one process has all of it; called on every process.

        Where U is split over devices, it is put together on the CPU of the first that share it; the others get None.
        """
        return self.layout.whole(self.U)

    # ----------------------------------------------------------------------------------------------- evaluation

    @in_float32
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self.curvatures(batch)

    @in_float32
    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self.curvatures(batch)

    @in_float32
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self.curvatures(batch)

    # ---------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoint_state.KEY] = checkpoint_state.saved(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint_state.restore(self, checkpoint)
