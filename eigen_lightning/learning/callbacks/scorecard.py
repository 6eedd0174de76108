"""The scorecard of a run, with its controls: to scorecard.json and the loggers."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from eigen_lightning.analysis.figures import COLUMNS, names_in
from eigen_lightning.analysis.judging import Controls, JudgeSettings, judge, make_controls
from eigen_lightning.analysis.random_network import learned_on_random_network
from eigen_lightning.analysis.subject import EvaluationSamples, Subject
from eigen_lightning.curvature import TraceNormalization
from eigen_lightning.data import SampleStream
from eigen_lightning.directions import Start
from eigen_lightning.learning.callbacks.evaluation import run_folder_of
from eigen_lightning.learning.callbacks.tensorboard import add_scorecard
from eigen_lightning.learning.module import SparseEigendecomposition
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.factored_rows import check_dense, dense
from eigen_lightning.run.seeding import derive_seed, run_seed
from eigen_lightning.targets import Target

PURPOSE = "the callback Scorecard"


class Scorecard(Callback):
    """Judges U and, on the same samples, three controls: random unit directions, the principal directions of the mean
    Hessian (learned on training samples) and, where the target knows its features, the true directions.

    Args:
        every_n_epochs: how often while training; null judges once, when training ends.
        random_draws: sets of random directions that the random control is the mean of; fewer where there are many
            directions.
        train_samples: training samples that the principal directions are learned, and train figures measured, on.
        max_evaluations: directions (controls included) times samples that one set of samples is judged with at most;
            with many directions fewer samples are judged, and intervals grow.
        random_network: learn as many directions on the target with its parameters drawn anew and judge them there:
            what they reach is due to architecture and samples, not to training.
        values_per_feature: samples of each feature that the true directions come from.
        n_examples: top samples a direction that token purity is measured on.

    Raises:
        UserError: where a number is below 1.
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        random_draws: int = 4,
        train_samples: int = 4096,
        values_per_feature: int = 20,
        n_examples: int = 20,
        max_evaluations: int = 2**21,
        random_network: bool = False,
    ) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise UserError(f"expected every_n_epochs of at least 1, got {every_n_epochs}")
        self.every_n_epochs = every_n_epochs
        self.settings = JudgeSettings(random_draws, train_samples, values_per_feature, n_examples, max_evaluations)
        self.random_network = random_network
        self._controls: Controls | None = None
        self._random_target: Target | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SparseEigendecomposition)
        if pl_module.coordinates is not None:
            check_dense(pl_module.n_directions, pl_module.target.space.size, PURPOSE)
        if self.random_network and self._random_target is None:
            # Here and not when all else is done: of some networks none can be made, of others none once they have run.
            self._random_target = pl_module.target.randomized(derive_seed(run_seed(), "random network"))

    on_test_start = on_fit_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if self.every_n_epochs and epoch % self.every_n_epochs == 0 and epoch != trainer.max_epochs:
            self.write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer, pl_module)

    def write(self, trainer: Trainer, module: LightningModule) -> None:
        """Judge now; called on every rank, written by the first."""
        assert isinstance(module, SparseEigendecomposition)
        card = self.judge(trainer, module, dense(module.directions, PURPOSE))
        if not trainer.is_global_zero:
            return
        run = run_folder_of(trainer)
        run.write_json(run.scorecard, card)
        scalars = {
            f"scorecard/{name}/{column}": card[column][name]
            for name in names_in(card["learned"])
            for column in COLUMNS
            if name in card.get(column, {})
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                add_scorecard(logger, card, trainer.global_step)
            else:
                logger.log_metrics(scalars, step=trainer.global_step)

    def judge(
        self, trainer: Trainer, module: SparseEigendecomposition, directions: Float[Tensor, "K P"]
    ) -> dict[str, Any]:
        """The content of scorecard.json, from U."""
        subject, samples = module.subject(), samples_of(trainer, module.device)
        if self._controls is None:
            self._controls = make_controls(subject, samples, directions, self.settings, run_seed())

        def random_network() -> tuple[Subject, Tensor]:
            assert self._random_target is not None
            return on_random_network(trainer, module, replace(subject, target=self._random_target.to(module.device)))

        with_control = random_network if self.random_network else None
        card = judge(subject, samples, directions, self._controls, self.settings, with_control)
        return card.to_json() | {"epoch": trainer.current_epoch, "step": trainer.global_step}


def stream_of(trainer: Trainer) -> SampleStream:
    """The samples of a run."""
    data: SampleStream = trainer.datamodule  # type: ignore[attr-defined]
    return data


def samples_of(trainer: Trainer, device: torch.device) -> EvaluationSamples:
    """A run's samples as judging takes them: this rank's share, on its device."""
    data = stream_of(trainer)
    share = (trainer.global_rank, trainer.world_size)
    return EvaluationSamples(
        data.train_set,
        data.evaluation_sets["heldout"],
        lambda: (trainer.strategy.batch_to_device(batch, device) for batch in data.first_batches(*share)),
        lambda: (trainer.strategy.batch_to_device(batch, device) for batch in data.test_dataloader()),
        trainer.world_size,
    )


def on_random_network(trainer: Trainer, module: SparseEigendecomposition, subject: Subject) -> tuple[Subject, Tensor]:
    """As many directions learned on a random network, the subject's, from the samples that a run's own start from."""
    data, settings = stream_of(trainer), module.start_settings or Start()
    size = min(data.batch_size, len(data.train_set))
    parts = torch.arange(min(max(settings.samples, size), len(data.train_set))).split(size)
    inputs = [data.train_set.batch(0, part).inputs.to(module.device) for part in parts if len(part) == size]
    return learned_on_random_network(
        subject,
        inputs[trainer.global_rank :: trainer.world_size],
        module.divergence,
        module.normalization or TraceNormalization(),
        settings,
        module.n_directions,
        module.chunk.rows,
        run_seed(),
    )
