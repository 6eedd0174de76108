"""The scorecard of a run, with its controls: to scorecard.json, the loggers and the console."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.table import Table
from torch import Tensor

from eigen_lightning.analysis import scorecard
from eigen_lightning.analysis.controls import (
    DENSE_UP_TO,
    OVERSAMPLING,
    oracle_directions,
    principal_directions,
    random_directions,
)
from eigen_lightning.analysis.language import reading
from eigen_lightning.analysis.recovery import recovery
from eigen_lightning.curvature import LinearizedBatch
from eigen_lightning.data.epoch_batches import EpochBatches
from eigen_lightning.learning.callbacks.evaluation import run_folder_of
from eigen_lightning.learning.callbacks.tensorboard import add_scorecard
from eigen_lightning.learning.callbacks.top_examples import describe
from eigen_lightning.run.collectives import reduced
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import run_seed

ORDER = (
    "mcc",
    "matched",
    "selectivity",
    "uniqueness",
    "mmcs",
    "steepness",
    "train_steepness",
    "interference",
    "explained_curvature",
    "token_purity",
    "previous_token_purity",
    "distinct_leading_tokens",
    "distinct_leading_contexts",
    "dead",
    "duplicates",
)
"""The figures in the order a person reads them."""

COLUMNS = ("learned", "random", "pca", "oracle")


class Scorecard(Callback):
    """Judges U and, on the same samples, three controls: random unit directions, the principal directions of the mean
    Hessian (learned on training samples) and, where the target knows its features, the true directions.

    Args:
        every_n_epochs: how often while training; null judges once, when training ends.
        random_draws: sets of random directions that the random control is the mean of.
        train_samples: training samples that the principal directions are learned, and train figures measured, on.
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
    ) -> None:
        given = {
            "every_n_epochs": every_n_epochs,
            "random_draws": random_draws,
            "train_samples": train_samples,
            "values_per_feature": values_per_feature,
            "n_examples": n_examples,
        }
        for name, value in given.items():
            if value is not None and value < 1:
                raise UserError(f"expected {name} of at least 1, got {value}")
        self.every_n_epochs = every_n_epochs
        self.random_draws = random_draws
        self.train_samples = train_samples
        self.values_per_feature = values_per_feature
        self.n_examples = n_examples
        self._controls: dict[str, Tensor] | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if self.every_n_epochs and epoch % self.every_n_epochs == 0 and epoch != trainer.max_epochs:
            self.write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer, pl_module)

    def write(self, trainer: Trainer, module: Any) -> None:
        """Judge now; called on every rank, written by the first."""
        card = self.judge(trainer, module, module.U.detach())
        if not trainer.is_global_zero:
            return
        run = run_folder_of(trainer)
        run.write_json(run.scorecard, card)
        scalars = {
            f"scorecard/{name}/{column}": card[column][name]
            for name in ORDER
            for column in COLUMNS
            if name in card.get(column, {})
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                add_scorecard(logger, card, trainer.global_step)
            else:
                logger.log_metrics(scalars, step=trainer.global_step)

    def judge(self, trainer: Trainer, module: Any, directions: Float[Tensor, "K P"]) -> dict[str, Any]:
        """The content of scorecard.json, from U."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        features = self._features(module)
        if self._controls is None:
            self._controls = self._make_controls(trainer, module, features, directions)
        sets = {"learned": directions, **self._controls}
        heldout = scorecard.judge(self._heldout(trainer, module), sets, self.n_examples)
        bases = {f"basis of {name}": scorecard.orthonormal_basis(rows_) for name, rows_ in sets.items()}
        train = scorecard.judge(self._train(trainer, module), {**sets, **bases}, self.n_examples)
        principal = float(train["basis of pca"].statistics.mean.sum())
        truth = sets.get("oracle")
        figures: dict[str, dict[str, Any]] = {}
        recovered = None
        for name, judged in heldout.items():
            figures[name] = judged.scalars()
            figures[name]["train_steepness"] = train[name].statistics.steepness
            captured = float(train[f"basis of {name}"].statistics.mean.sum())
            figures[name]["explained_curvature"] = captured / principal
            if truth is not None and features is not None:
                by_feature = scorecard.mean_by_feature(module.linearizer, sets[name], features)
                found = recovery(sets[name], truth, by_feature)
                figures[name].update(found.scalars())
                recovered = found if name == "learned" else recovered
            top = describe(judged.top, data.evaluation_sets["heldout"])
            if "token_id" in top[0][0]:
                figures[name].update(reading(top))
        draws = [figures.pop(f"random {draw}") for draw in range(self.random_draws)]
        random, spread = scorecard.mean_and_spread(draws)
        ordered = {
            column: {name: figures[column][name] for name in ORDER if name in figures[column]}
            for column in ("learned", "pca", "oracle")
            if column in figures
        }
        card: dict[str, Any] = {
            "learned": ordered["learned"],
            "random": {name: random[name] for name in ORDER if name in random},
            "pca": ordered["pca"],
        }
        if "oracle" in ordered:
            card["oracle"] = ordered["oracle"]
        card["random_spread"] = {name: spread[name] for name in ORDER if name in spread}
        card["random_draws"] = self.random_draws
        card["n_directions"], card["n_parameters"] = directions.shape
        if recovered is not None:
            card["features"] = recovered.features
            card["assignment"] = [
                {"feature": feature, "direction": partner, "cosine": cosine}
                for feature, partner, cosine in zip(
                    module.target.feature_names, recovered.partner.tolist(), recovered.cosine.tolist(), strict=True
                )
            ]
        card["health"] = asdict(heldout["learned"].health)
        card["samples"] = {
            "heldout": heldout["learned"].statistics.n_samples,
            "train": train["learned"].statistics.n_samples,
        }
        card["epoch"], card["step"] = trainer.current_epoch, trainer.global_step
        return card

    # ------------------------------------------------------------------------------------------------- controls

    def _features(self, module: Any) -> list[Tensor] | None:
        # A target of one's own may know its features too: this is all it has to have.
        of_target = getattr(module.target, "feature_inputs", None)
        return None if of_target is None else of_target(self.values_per_feature)

    def _make_controls(
        self, trainer: Trainer, module: Any, features: list[Tensor] | None, like: Float[Tensor, "K P"]
    ) -> dict[str, Tensor]:
        seed = run_seed()
        n_directions, size = like.shape
        principal = min(n_directions, size)
        block = size if size <= DENSE_UP_TO else max(min(principal, OVERSAMPLING), -(-principal // 3))
        start = random_directions(block, size, seed, self.random_draws).to(like)

        def passes() -> Iterator[LinearizedBatch]:
            for _, linearized in self._train(trainer, module):
                yield linearized

        controls = {
            f"random {draw}": random_directions(n_directions, size, seed, draw).to(like)
            for draw in range(self.random_draws)
        }
        controls["pca"] = principal_directions(passes, principal, start, lambda tensor: reduced(tensor, "mean"))[0]
        if features is not None:
            controls["oracle"] = oracle_directions(module.linearizer, features)
        return controls

    # -------------------------------------------------------------------------------------------------- samples

    def _train(self, trainer: Trainer, module: Any) -> Iterator[tuple[Any, LinearizedBatch]]:
        """The first training samples of epoch 0, whole batches, the same whenever asked for."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        samples = data.train_set
        order = EpochBatches(
            len(samples),
            min(data.batch_size, len(samples)),
            seed=data.resolved_seed,
            shuffle=samples.repeats,
            drop_last=True,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        seen = 0
        for key in order:
            batch = trainer.strategy.batch_to_device(samples[key], module.device)
            yield batch, module.linearize(batch, samples)
            seen += order.batch_size
            if seen >= self.train_samples:
                return

    def _heldout(self, trainer: Trainer, module: Any) -> Iterator[tuple[Any, LinearizedBatch]]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        for batch in data.test_dataloader():
            batch = trainer.strategy.batch_to_device(batch, module.device)
            yield batch, module.linearize(batch, data.evaluation_sets["heldout"])


def table(card: dict[str, Any]) -> Table:
    """The scorecard as a table: a row a figure, a column for the learned directions and for each control."""
    columns = [column for column in COLUMNS if column in card]
    made = Table("", *columns, title="Scorecard")
    for column in made.columns[1:]:
        column.justify = "right"
    for name in ORDER:
        if name not in card["learned"]:
            continue
        cells = [shown(name, card[column][name], card) for column in columns]
        if card["random_draws"] > 1:
            at = columns.index("random")
            cells[at] += f" ± {card['random_spread'][name]:.2g}"
        made.add_row(name.replace("_", " "), *cells)
    return made


def shown(name: str, value: float, card: dict[str, Any]) -> str:
    """A figure with three digits; ``matched`` as a count out of the features."""
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{text} of {card['features']}" if name == "matched" else text
