"""A decomposition in one call, and what of it the command line shares."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from eigen_lightning.api.run import Run
from eigen_lightning.curvature import Divergence
from eigen_lightning.data import SampleStream
from eigen_lightning.data.loader import as_stream
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.learning.callbacks import (
    Cards,
    ExpectedTime,
    Health,
    Interference,
    Interventions,
    ReportWriter,
    RunCheckpoint,
    RunRecord,
    Scorecard,
    Summary,
    TensorBoard,
    TopExamples,
    WholeModel,
)
from eigen_lightning.run.checkpoint_io import AtomicCheckpointIO
from eigen_lightning.run.console import quiet_libraries
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder, write_atomically
from eigen_lightning.run.lock import RunLock
from eigen_lightning.run.metrics_csv import MetricsCSV
from eigen_lightning.run.recipe import is_plain
from eigen_lightning.targets import Network, Target

TRAINER_DEFAULTS: dict[str, Any] = {
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "enable_model_summary": False,
    # The scorecard's controls take gradients when testing ends.
    "inference_mode": False,
}

DEFAULT_CALLBACKS: tuple[type[Callback], ...] = (Interference, TopExamples, Scorecard, Health)

MANY_RUNS = 10_000


def loggers_of(run: RunFolder) -> list[Logger]:
    """What a run logs to: TensorBoard and ``metrics.csv``."""
    return [TensorBoardLogger(run.path, name="", version=run.tensorboard.name), MetricsCSV(run.metrics)]


def with_finishing_callbacks(
    callbacks: Sequence[Callback], checkpointing: bool, report: bool, quiet: bool, progress_bar: bool
) -> list[Callback]:
    """Callbacks, with those that make a run folder of it: checkpoint, manifest, report, tables.

    Args:
        callbacks: those chosen.
        checkpointing: keep ``last.ckpt``.
        report: end with causal checks and ``report.html``.
        quiet: no progress bars and no tables.
        progress_bar: show one.
    """
    complete = list(callbacks)
    if checkpointing and not any(isinstance(callback, RunCheckpoint) for callback in complete):
        complete.append(RunCheckpoint())
    complete.append(RunRecord())
    if not quiet:
        complete.append(ExpectedTime())
    if report:
        complete += [Cards(), Interventions(), WholeModel(), TensorBoard(), ReportWriter()]
    if not quiet:
        complete.append(Summary())
        if progress_bar:
            complete.append(RichProgressBar(leave=False))
    return complete


def fit(
    model: nn.Module | Target,
    data: Any,
    parameters: Sequence[str] | None = None,
    divergence: str | Divergence | None = None,
    n_directions: Any = "auto",
    run_dir: str | Path | None = None,
    max_epochs: int = 4,
    *,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    report: bool = True,
    quiet: bool | None = None,
    callbacks: Sequence[Callback] | None = None,
    trainer: Mapping[str, Any] | None = None,
    **model_options: Any,
) -> Run:
    """Decompose a trained network, and leave the same run folder as the command line.

    Args:
        model: the network: a module, or a target (:class:`Network` with settings of its own, :class:`Transformer`, a
            toy).
        data: samples: a SampleStream, or a Dataset, DataLoader or tensor, of which a tenth is held out
            (:class:`FromLoader` has further settings).
        parameters: names or globs of the parameters to decompose, for a module; a target names its own.
        divergence: ``mse``, ``kl`` or ``cross_entropy``, or an object; None takes the target's, of a module ``mse``.
        n_directions: K, or ``auto``.
        run_dir: the run's folder; None takes ``runs/<name of the module>``, with a number where that is taken.
        max_epochs: passes over the samples.
        seed: of everything that is drawn; the random generators of the caller stay as they are.
        overwrite: replace the results that ``run_dir`` holds.
        resume: go on from the checkpoint in ``run_dir``, where there is one.
        report: end with causal checks and ``report.html``.
        quiet: no progress bars and no tables; None where stderr is no terminal.
        callbacks: at the end of each epoch and of the run; None takes interference, top examples, scorecard and health.
        trainer: further arguments of Lightning's Trainer; one device unless they say otherwise.
        model_options: further arguments of :class:`SparseEigendecomposition`.

    Returns:
        The finished run.

    Raises:
        UserError: for wrong input, before anything is written.
    """
    target = _target_of(model, parameters, divergence)
    stream = as_stream(data)
    quiet = not _is_terminal() if quiet is None else quiet
    module = SparseEigendecomposition(target, n_directions, divergence, **model_options)
    run = RunFolder(run_dir if run_dir is not None else _free_folder(_name_of(model), resume or overwrite))
    if run.manifest.exists() and not overwrite and not resume:
        raise UserError(
            f"expected an empty run folder, got {run.path}, which holds another run's results: go on with "
            "resume=True, replace it with overwrite=True, or choose another run_dir"
        )
    checkpoint = str(run.last_checkpoint) if resume and run.last_checkpoint.exists() else None
    chosen = [kind() for kind in DEFAULT_CALLBACKS] if callbacks is None else list(callbacks)
    config = configuration(target, stream, n_directions, divergence, model_options, seed, max_epochs)
    lock = RunLock(run.path)
    lock.acquire()
    try:
        with (
            _own_surroundings(seed),
            run.replaced() if checkpoint is None else run.kept(),
        ):
            made = Trainer(
                **{
                    **TRAINER_DEFAULTS,
                    "default_root_dir": run.path,
                    "max_epochs": max_epochs,
                    "devices": 1,
                    "logger": loggers_of(run),
                    "enable_progress_bar": not quiet,
                    "plugins": [AtomicCheckpointIO()],
                    **(trainer or {}),
                    "callbacks": with_finishing_callbacks(
                        [*chosen, _Configuration(config)],
                        checkpointing=True,
                        report=report,
                        quiet=quiet,
                        progress_bar=not quiet,
                    ),
                }
            )
            made.fit(module, datamodule=stream, ckpt_path=checkpoint, weights_only=True)
    finally:
        lock.release()
    return Run(run, target, module.divergence)


def configuration(
    target: Target,
    stream: SampleStream,
    n_directions: Any,
    divergence: str | Divergence | None,
    model_options: Mapping[str, Any],
    seed: int,
    max_epochs: int,
) -> dict[str, Any] | None:
    """What the command line repeats a run by; None where a configuration cannot hold it, as with a module."""
    recipes = {"target": target.recipe(), "data": stream.recipe()}
    options = {
        "n_directions": n_directions,
        "divergence": divergence,
        **{name: asdict(value) if is_dataclass(value) else value for name, value in model_options.items()},  # type: ignore[arg-type]
    }
    if any(recipe.pop("missing") for recipe in recipes.values()) or not is_plain(options):
        return None
    return json.loads(
        json.dumps(
            {
                "seed_everything": seed,
                "model": {"target": recipes["target"], **options},
                "data": recipes["data"],
                "trainer": {
                    "max_epochs": max_epochs,
                    "callbacks": [{"class_path": kind.__name__} for kind in DEFAULT_CALLBACKS],
                },
            }
        )
    )


class _Configuration(Callback):
    """Writes ``config.yaml`` when a fit starts."""

    def __init__(self, config: dict[str, Any] | None) -> None:
        self.config = config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.config is not None and trainer.is_global_zero:
            content = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
            write_atomically(RunFolder(trainer.default_root_dir).config, content.encode())


def _target_of(
    model: nn.Module | Target, parameters: Sequence[str] | None, divergence: str | Divergence | None
) -> Target:
    if isinstance(model, Target):
        if parameters is not None:
            raise UserError(
                f"expected no `parameters` beside a target, got {list(parameters)}: give them to {type(model).__name__}"
            )
        return model
    return Network(model, ["*"] if parameters is None else parameters, divergence or "mse")


def _name_of(model: nn.Module | Target) -> str:
    named = model.module if isinstance(model, Network) else model
    return type(named).__name__.lower()


def _free_folder(name: str, same: bool) -> Path:
    first = Path("runs") / name
    if same:
        return first
    tried = (first, *(Path("runs") / f"{name}-{number}" for number in range(2, MANY_RUNS)))
    return next(folder for folder in tried if not RunFolder(folder).manifest.exists())


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def _own_surroundings(seed: int) -> Iterator[None]:
    """Seeded, without the libraries' chatter; generators, environment and logs are the caller's again afterwards."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    before = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    with isolate_rng(), warnings.catch_warnings():
        quiet_libraries()
        try:
            seed_everything(seed, workers=True, verbose=False)
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
