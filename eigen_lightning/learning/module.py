"""The LightningModule that learns the directions, in two stages a batch."""

import logging
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from eigen_lightning.analysis.subject import Subject
from eigen_lightning.curvature import (
    Chunk,
    Divergence,
    LinearizedBatch,
    Linearizer,
    SampleCache,
    Scale,
    TraceNormalization,
    divergence_named,
)
from eigen_lightning.curvature.factored import FactoredSpace
from eigen_lightning.curvature.factored_products import FactoredLinearizer
from eigen_lightning.data.stream import Batch, SampleSet, SampleStream
from eigen_lightning.directions import Coverage, Interference, PolarAscent, Start, Steepness
from eigen_lightning.directions.dense import random_rows
from eigen_lightning.directions.factored_ascent import Factored, FactoredAscent
from eigen_lightning.directions.losses import InterferenceForm
from eigen_lightning.directions.start import FEATURE_GAIN
from eigen_lightning.learning import start_stage
from eigen_lightning.learning.checkpoint_state import KEY, Learned, check_same, settings_of
from eigen_lightning.learning.checks import check_factored, check_numbers, check_shared_out
from eigen_lightning.learning.finite import raise_not_finite
from eigen_lightning.learning.precision import in_float32
from eigen_lightning.run.collectives import reduced
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.factored_rows import Rows
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.seeding import derive_seed, run_seed
from eigen_lightning.targets.checks import check_curvature, check_samples
from eigen_lightning.targets.target import Target

log = logging.getLogger(__name__)

DENSE_PROBES_UP_TO = 2**27
"""Numbers in the dense directions that traces are estimated with, up to which factored runs use them: 1 GiB."""


class SparseEigendecomposition(LightningModule):
    """Learns K unit directions U in a target's parameter space, steep on few samples and without interference.

    Each batch has two stages, each an optimizer step: stage 1 raises an objective of d2D, stage 2 lowers the
    interference of the updated U. ``global_step`` counts batches.

    Args:
        target: the network to decompose.
        n_directions: K; ``auto`` takes as many as the gains of the start's greedy choice stand out.
        divergence: ``mse``, ``kl`` or ``cross_entropy``, or an object of your own; null takes the target's default.
        curvature: ``gauss_newton`` (one product per direction) or ``nested`` (two; the reference).
        objective: of stage 1. ``coverage``: each sample pulls only the direction that leads on it; ``steepness``: all
            directions, rows held orthonormal; ``auto``: coverage, unless the start finds that more than
            ``dense_above`` directions share a sample.
        exponent: of d2D in the objective; the published one is 2.
        dense_exponent: of d2D where ``auto`` takes steepness: the denser the samples, the lower.
        dense_above: how many directions must share a sample for that.
        stage1: the optimizer of stage 1; null is PolarAscent, rows orthonormal for steepness and free for coverage.
        stage2: the optimizer of stage 2; null shares stage 1's, as published.
        interference_weight: lambda, the weight of the interference; 0 leaves stage 2 out.
        interference_form: ``squared``, or ``norm`` as published.
        stage2_curvature: ``fresh`` re-evaluates d2D of the updated U and differentiates through it; ``stale`` takes
            stage 1's as a constant, as published.
        normalization: how d2D is scaled; null leaves it as it is, as published.
        start: how U starts; null takes random independent rows, as published.
        directions: how U is held: null takes dense rows, ``{rank: 1}`` a product of that rank in every matrix, for
            parameters whose K P numbers are too many; those learn by coverage.
        readout: ``on`` pulls the output metric back through a linear readout where there is one, ``off`` goes through
            the outputs.
        rows: directions evaluated at a time; null sizes it from the memory budget and the first batch.
        memory_budget: GiB for the tangents of the directions evaluated at a time; null takes an eighth of what is free.
        cache_gib: memory for metrics of samples that return every epoch, in GiB; more goes to a temporary file.

    Raises:
        UserError: naming the value that is out of range.
    """

    U: nn.Parameter

    def __init__(
        self,
        target: Target,
        n_directions: int | Literal["auto"],
        divergence: str | Divergence | None = None,
        curvature: Literal["gauss_newton", "nested"] = "gauss_newton",
        objective: Literal["auto", "coverage", "steepness"] = "auto",
        exponent: float = 3.0,
        dense_exponent: float = 1.5,
        dense_above: float = 10.0,
        stage1: OptimizerCallable | None = None,
        stage2: OptimizerCallable | None = None,
        interference_weight: float = 0.0,
        interference_form: InterferenceForm = "squared",
        stage2_curvature: Literal["fresh", "stale"] = "fresh",
        normalization: TraceNormalization | None = TraceNormalization(),  # noqa: B008 - frozen
        start: Start | None = Start(),  # noqa: B008 - frozen
        directions: Factored | None = None,
        readout: Literal["on", "off"] = "on",
        rows: int | None = None,
        memory_budget: float | None = None,
        cache_gib: float = 1.0,
    ) -> None:
        super().__init__()
        check_numbers(n_directions, rows, interference_weight, memory_budget, cache_gib, exponent, dense_exponent)
        if start is None and (objective == "auto" or n_directions == "auto"):
            raise UserError(
                "expected model.start for an objective or a number of directions that is decided by it, got null: name "
                "objective (coverage or steepness) and n_directions, or leave start out for its default"
            )
        if directions is not None:
            check_factored(objective, start, curvature, interference_weight, stage1 or stage2)
        self.automatic_optimization = False
        # Trained once for all processes and stored in the run folder, which all see.
        self.prepare_data_per_node = False
        self.target = target
        self.wanted_directions = n_directions
        chosen = target.default_divergence if divergence is None else divergence
        self.divergence = chosen if isinstance(chosen, Divergence) else divergence_named(chosen)
        self.method: Literal["gauss_newton", "nested"] = curvature
        self.objective_name: Literal["auto", "coverage", "steepness"] = objective
        self.exponent, self.dense_exponent, self.dense_above = exponent, dense_exponent, dense_above
        self.make_stage1, self.make_stage2 = stage1, stage2
        self.interference_weight = interference_weight
        self.interference_form: InterferenceForm = interference_form
        self.stage2_curvature = stage2_curvature
        self.normalization, self.start_settings = normalization, start
        self.factors = directions
        self.readout = readout
        self.chunk = Chunk(rows, memory_budget)
        self.cache_bytes = int(cache_gib * 2**30)
        self.linearizer: Linearizer | None = None
        self.factored: FactoredLinearizer | None = None
        self.learned: Learned | None = None
        self.caches: dict[str, SampleCache | None] = {}
        self.has_stage2 = False
        self.register_parameter("U", None)

    # ---------------------------------------------------------------------------------------------- a batch

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        assert self.learned is not None
        # Whatever the Trainer's precision: steepness is of fourth order in the tangents, of which bfloat16's 8 bits
        # would leave 1e-3.
        with torch.autocast(self.device.type, enabled=False):
            samples = self.linearize(batch, self.trainer.datamodule.train_set, self.learned.scale)  # type: ignore[attr-defined]
            d, ascent = samples.value_and_gradient(self.U, self.objective)
            self._step(0, -reduced(ascent, "mean"), d, batch, last=not self.has_stage2)
            values = {}
            if self.has_stage2:
                ranks = self.trainer.world_size
                loss = Interference(self.interference_form, samples.n_samples * ranks, batch.inputs.numel() * ranks)
                stale = d if self.stage2_curvature == "stale" else None
                values["interference"], gradient = loss.value_and_gradient(
                    samples, self.U, stale, lambda tensor: reduced(tensor, "sum")
                )
                self._step(-1, gradient * self.interference_weight, d, batch, last=True)
        if self.trainer.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            values["steepness"] = Steepness().value(d)
            self.log_dict({f"train/{name}": value for name, value in values.items()}, sync_dist=True)

    def _step(self, stage: int, gradient: Tensor, d: Tensor, batch: Batch, last: bool) -> None:
        """Step with the optimizer of stage 1 (0) or 2 (-1), which may be one."""
        if not gradient.isfinite().all():
            when = f"stage {2 if stage else 1} of step {self.trainer.global_step}"
            raise_not_finite(d, batch, self.U, self.run_folder.checkpoints, when)
        self.U.grad = gradient
        # Lightning counts each step of its own wrapper in global_step: only the last of a batch goes through it.
        wrapped, optimizer = self.optimizers(use_pl_optimizer=last), self.trainer.optimizers[stage]
        (wrapped[stage] if isinstance(wrapped, list) else wrapped).step()
        if not isinstance(optimizer, PolarAscent | FactoredAscent):
            self.U.copy_(nn.functional.normalize(self.U, dim=-1))

    def _begin(self, learned: Learned) -> None:
        """Take what the start, or the checkpoint, decided."""
        self.learned = learned
        self.objective = (Coverage if learned.objective == "coverage" else Steepness)(learned.exponent)
        stage1 = self.trainer.optimizers[0]
        if self.make_stage1 is None and self.factors is None:
            stage1.param_groups[0]["orthonormal"] = learned.objective == "steepness"
        # Orthonormal rows cannot interfere.
        orthonormal = isinstance(stage1, PolarAscent) and stage1.keeps_orthonormal(self.U)
        self.has_stage2 = self.interference_weight > 0 and not orthonormal

    # ---------------------------------------------------------------------------------------------- samples

    def linearize(self, batch: Batch, samples: SampleSet | None = None, scale: Scale | None = None) -> LinearizedBatch:
        """A batch linearized at W0, for rows as U has them.

        Args:
            batch: inputs on this module's device.
            samples: the set they are of; what was computed of its samples before is used again.
            scale: of the losses; None leaves d2D as it is.
        """
        if samples is not None and samples.name not in self.caches:
            self._cache(samples)
        cache = None if samples is None else self.caches[samples.name]
        if cache is None:
            return self.linearize_inputs(batch.inputs).scaled_by(scale)
        return cache.linearize(batch.inputs, batch.sample_id, scale)

    def _cache(self, samples: SampleSet) -> None:
        """Compute what belongs to the samples of a set that returns, where it takes long; None stands for not."""
        assert self.linearizer is not None
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        once = samples is data.train_set and self.trainer.max_epochs == 1
        self.caches[samples.name] = None
        if samples.repeats and self.linearizer.has_costly_parts and not once:
            self.caches[samples.name] = SampleCache(
                self.factored or self.linearizer, samples, data.batch_size, self.device, memory_budget=self.cache_bytes
            )

    def linearize_dense(self, batch: Batch, samples: SampleSet) -> LinearizedBatch:
        """A batch linearized for dense rows, as judging and its controls have them."""
        if self.factored is None:
            return self.linearize(batch, samples)
        assert self.linearizer is not None
        known = self.linearize(batch, samples)
        return self.linearizer(batch.inputs, known.metric, known.trace)

    def subject(self) -> Subject:
        """The target, linearized, as judging takes it."""
        assert self.linearizer is not None
        power = 0.0 if self.normalization is None else self.normalization.power
        return Subject(self.target, self.linearizer, self.linearize_dense, self.exponent, power, self.device)

    def d2D(self, batch: Batch, samples: SampleSet) -> Float[Tensor, "K batch *positions"]:  # noqa: N802
        """d2D of every direction on every sample of a batch, unscaled."""
        return self.linearize(batch, samples).d2D(self.U)

    def linearize_inputs(self, inputs: Tensor) -> LinearizedBatch:
        """Inputs of no set, for rows as U has them."""
        linearizer = self.factored or self.linearizer
        assert linearizer is not None
        return linearizer(inputs.to(self.device))

    @in_float32
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self.d2D(batch, list(self.trainer.datamodule.evaluation_sets.values())[dataloader_idx])  # type: ignore[attr-defined]

    @in_float32
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self.d2D(batch, self.trainer.datamodule.evaluation_sets["heldout"])  # type: ignore[attr-defined]

    predict_step = test_step

    # ---------------------------------------------------------------------------------------------- life cycle

    def configure_callbacks(self) -> list[Callback]:
        """What writes manifest and directions, where the trainer has none yet: every run leaves a folder to load."""
        from eigen_lightning.learning.callbacks.run_record import RunRecord

        has_one = any(isinstance(callback, RunRecord) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        return [] if has_one else [RunRecord()]

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> "SparseEigendecomposition":  # type: ignore[override]
        """Refused: a checkpoint holds what resuming needs, and not the target.

        Raises:
            UserError: with what to call instead.
        """
        raise UserError(
            "expected a run's folder, got a checkpoint, which does not hold the target: call eigen_lightning.load("
            "run_dir), with model=... for a network of your own; to go on training, trainer.fit(..., ckpt_path=...)"
        )

    @property
    def run_folder(self) -> RunFolder:
        """Where this run's results go: the trainer's ``default_root_dir``."""
        return RunFolder(self.trainer.default_root_dir)

    @property
    def directions(self) -> Rows:
        """U ``[K, P]``; written out row by row where factors hold more directions than dense rows could."""
        return self.U.detach() if self.coordinates is None else self.coordinates.directions(self.U.detach())

    @property
    def coordinates(self) -> FactoredSpace | None:
        """Of U's rows where they are held as factors."""
        return None if self.factors is None else FactoredSpace(self.target.space, self.factors.rank)

    @property
    def n_directions(self) -> int:
        """K; known once the run has started."""
        return len(self.U)

    def prepare_data(self) -> None:
        self.target.prepare(self.run_folder, run_seed())

    def setup(self, stage: str) -> None:
        self.target.load(self.run_folder)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SampleStream):
            raise UserError(
                f"expected trainer.fit(module, datamodule=...) with samples that have an identity, got "
                f"{'a loader alone' if data is None else type(data).__name__}: wrap a Dataset or DataLoader as "
                "eigen_lightning.FromLoader(loader), or call eigen_lightning.fit"
            )
        for samples in (data.train_set, *data.evaluation_sets.values()):
            check_samples(self.target, samples)
        for name, samples in data.evaluation_sets.items():
            check_shared_out(name, len(samples), self.trainer.world_size)
        self.linearizer, self.factored, self.caches = None, None, {}

    def configure_model(self) -> None:
        if self.U is not None:
            return
        rows = 1 if self.wanted_directions == "auto" else self.wanted_directions
        space = self.coordinates
        if space is None:
            drawn = random_rows(rows, self.target.space.size, run_seed(), "start")
        else:
            drawn = space.random(rows, run_seed(), "start")
        like = next(iter(self.target.weights.values()))
        self.U = nn.Parameter(drawn.to(like.device, torch.promote_types(like.dtype, torch.float32)))

    def configure_optimizers(self) -> list[Optimizer]:
        if self.coordinates is not None:
            return [FactoredAscent([self.U], self.coordinates)]
        free = self.objective_name == "coverage"
        stage1 = (
            PolarAscent([self.U], orthonormal=not free, shift=self.interference_weight > 0)
            if self.make_stage1 is None
            else self.make_stage1([self.U])
        )
        return [stage1] if self.make_stage2 is None else [stage1, self.make_stage2([self.U])]

    # Lightning's own default for tests and predictions leaves torch nothing to differentiate with.
    @torch.inference_mode(False)
    def _prepare(self) -> None:
        """Move the target to this module's device and choose how it is linearized there."""
        self.target.to(self.device)
        samples = self.trainer.datamodule.train_set  # type: ignore[attr-defined]
        size = min(self.trainer.datamodule.batch_size, len(samples))  # type: ignore[attr-defined]
        inputs = samples.batch(0, torch.arange(size)).inputs.to(self.device)
        traces = self.normalization or TraceNormalization()
        own_probes = self.factors is not None and self.target.space.size * traces.probes > DENSE_PROBES_UP_TO
        self.linearizer = Linearizer.prepare(
            self.target,
            self.divergence,
            inputs,
            self.method,
            self.readout == "on",
            replace(traces, probes=1, exact_up_to=0) if own_probes else traces,
            self.chunk,
            self.n_directions,
            derive_seed(run_seed(), "probes"),
        )
        if self.factors is not None:
            seed, probes = derive_seed(run_seed(), "probes"), self.factors.probes if own_probes else 0
            self.factored = FactoredLinearizer.prepare(self.linearizer, self.factors.rank, inputs, probes, seed)
        if self.target.check:
            check_curvature(self.target, self.linearizer, inputs)

    def on_fit_start(self) -> None:
        self._prepare()

    def on_validation_start(self) -> None:
        if self.linearizer is None:
            self._prepare()

    on_test_start = on_predict_start = on_validation_start

    @in_float32
    def on_train_start(self) -> None:
        if self.trainer.precision == "bf16-mixed":
            log.warning("bf16-mixed: curvature, losses and steps stay in float32, as bfloat16 would leave 1e-3 of them")
        if self.learned is not None:
            self._begin(self.learned)
            return
        samples = start_stage.Samples(self)
        scale = samples.fit_scale(self.normalization)
        if self.start_settings is not None:
            self._begin(start_stage.start(self, samples, self.start_settings, scale))
            return
        objective: Literal["coverage", "steepness"] = "coverage" if self.objective_name == "coverage" else "steepness"
        self._begin(Learned(scale, objective, self.exponent))

    # ---------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            "settings": settings_of(self),
            "learned": None if self.learned is None else self.learned.to_json(),
            "rows": self.chunk.rows,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint[KEY]
        check_same(saved["settings"], settings_of(self))
        self.learned = None if saved["learned"] is None else Learned.from_json(saved["learned"])
        self.chunk.rows = saved["rows"]
        self.U.data = torch.empty_like(checkpoint["state_dict"]["U"], device=self.U.device)

    def curvature_facts(self) -> dict[str, Any]:
        """What the manifest says of how curvature is computed and what the start decided."""
        assert self.linearizer is not None
        facts: dict[str, Any] = {
            "method": self.method,
            "divergence": type(self.divergence).__name__,
            "pulled_back_metric": self.linearizer.readout is not None,
            "directions_at_a_time": self.chunk.rows,
        }
        if self.learned is not None:
            facts |= self.learned.to_json()
            facts["gains_above_a_tenth"] = sum(gain > FEATURE_GAIN for gain in self.learned.gains)
        return facts
