"""The scorecard of a run, with its controls: to scorecard.json, the loggers and the console."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.table import Table
from torch import Tensor

from eigen_lightning.analysis import scorecard
from eigen_lightning.analysis.controls import (
    DENSE_UP_TO,
    OVERSAMPLING,
    principal_directions,
    random_directions,
)
from eigen_lightning.analysis.label_figures import groups_of, labels_of
from eigen_lightning.analysis.language import reading
from eigen_lightning.analysis.planted import planted
from eigen_lightning.analysis.recovery import Recovery
from eigen_lightning.analysis.structure import structure
from eigen_lightning.analysis.subspaces import recovery_of
from eigen_lightning.analysis.truth import Truth, true_directions
from eigen_lightning.curvature import LinearizedBatch
from eigen_lightning.data.epoch_batches import EpochBatches
from eigen_lightning.learning.callbacks.evaluation import run_folder_of
from eigen_lightning.learning.callbacks.tensorboard import add_scorecard
from eigen_lightning.learning.callbacks.top_examples import describe
from eigen_lightning.learning.random_network import RandomNetwork
from eigen_lightning.run.collectives import reduced
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import run_seed

ORDER = (
    "mcc",
    "matched",
    "selectivity",
    "uniqueness",
    "mmcs",
    "coverage",
    "context_states",
    "states",
    "normalized_steepness",
    "normalized_steepness_low",
    "normalized_steepness_high",
    "train_normalized_steepness",
    "explained_by_labels",
    "explained_by_labels_low",
    "explained_by_labels_high",
    "token_purity",
    "previous_token_purity",
    "distinct_leading_tokens",
    "distinct_leading_contexts",
    "first_singular_share",
    "head_share",
    "explained_curvature",
    "interference",
    "steepness",
    "train_steepness",
    "largest_sample_share",
    "dead",
    "duplicates",
    "twins",
)
"""The figures in the order a person reads them."""

COLUMNS = ("learned", "random", "pca", "oracle", "random_network")


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
        given = {
            "every_n_epochs": every_n_epochs,
            "random_draws": random_draws,
            "train_samples": train_samples,
            "values_per_feature": values_per_feature,
            "n_examples": n_examples,
            "max_evaluations": max_evaluations,
        }
        for name, value in given.items():
            if value is not None and value < 1:
                raise UserError(f"expected {name} of at least 1, got {value}")
        self.every_n_epochs = every_n_epochs
        self.random_draws = random_draws
        self.train_samples = train_samples
        self.values_per_feature = values_per_feature
        self.n_examples = n_examples
        self.max_evaluations = max_evaluations
        self.random_network = random_network
        self._controls: dict[str, Tensor] | None = None
        self._truth: Truth | None = None

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
        card = self.judge(trainer, module, module.directions)
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

    def judge(self, trainer: Trainer, module: Any, directions: Float[Tensor, "K P"]) -> dict[str, Any]:
        """The content of scorecard.json, from U."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        self._draws = max(1, min(self.random_draws, 256 // len(directions)))
        features = self._features(module)
        if self._controls is None:
            self._controls = self._make_controls(trainer, module, directions)
            if features is not None:
                self._truth = self._truth_of(module, features)
                self._controls["oracle"] = self._truth.rows
        sets = {"learned": directions, **self._controls}
        count = self._affordable(sum(map(len, sets.values())))
        heldout = scorecard.judge(self._heldout(trainer, module, count), sets, self.n_examples)
        bases = {name: scorecard.orthonormal_basis(sets[name]) for name in sets if name != "pca"}
        on_train = {**sets, **{f"basis of {name}": rows for name, rows in bases.items()}}
        count = self._affordable(sum(map(len, on_train.values())))
        train = scorecard.judge(self._train(trainer, module, count), on_train, self.n_examples)
        figures = self._figures(data, module, sets, heldout, train)
        labels = labels_of(data, heldout, train)
        of_states = planted(data, heldout, train)
        for more in (labels.figures, of_states.figures):
            for name, of_set in more.items():
                figures[name].update(of_set)
        principal = float(train["pca"].statistics.mean.sum())
        for name in sets:
            spanned = train["pca" if name == "pca" else f"basis of {name}"]
            figures[name]["explained_curvature"] = float(spanned.statistics.mean.sum()) / principal
        recovered = None
        if features is not None and self._truth is not None:
            recovered = self._recovery(module, sets, features, self._truth, figures)["learned"]
        draws = [figures.pop(f"random {draw}") for draw in range(self._draws)]
        figures["random"], spread = scorecard.mean_and_spread(draws)
        if self.random_network:
            figures["random_network"] = self._on_random_network(trainer, module)
        card: dict[str, Any] = {
            column: {name: figures[column][name] for name in names_in(figures[column])}
            for column in COLUMNS
            if column in figures
        }
        card["random_spread"] = {name: spread[name] for name in names_in(spread)}
        card["random_draws"] = self._draws
        card["n_directions"], card["n_parameters"] = directions.shape
        if recovered is not None and self._truth is not None:
            card["features"] = recovered.features
            card["truth"] = self._truth.to_json()
            card["assignment"] = [
                {"feature": feature, "direction": partner, "cosine": cosine}
                for feature, partner, cosine in zip(
                    module.target.feature_names, recovered.partner.tolist(), recovered.cosine.tolist(), strict=True
                )
            ]
        card["labels"] = labels.of_learned
        if of_states.of_learned:
            card["planted"] = of_states.of_learned
        card["structure"] = structure(directions, module.target.space.shape_of, module.target.heads()).to_json()
        card["health"] = asdict(heldout["learned"].health)
        card["samples"] = {
            "heldout": heldout["learned"].statistics.n_samples,
            "train": train["learned"].statistics.n_samples,
        }
        card["epoch"], card["step"] = trainer.current_epoch, trainer.global_step
        return card

    def _figures(
        self,
        data: Any,
        module: Any,
        sets: dict[str, Tensor],
        heldout: dict[str, Any],
        train: dict[str, Any],
        linearizer: Any = None,
    ) -> dict[str, dict[str, Any]]:
        """What every set of directions is judged by, and what the target itself says of them."""
        linearizer = linearizer or module.linearizer
        samples = data.evaluation_sets["heldout"]
        group = groups_of(samples, heldout["learned"].normalized.sample_id)
        figures = {}
        power = 0.0 if module.normalization is None else module.normalization.power
        for name, judged in heldout.items():
            figures[name] = {
                **judged.scalars(group),
                "coverage": judged.normalized.coverage(judged.rows, module.exponent, power),
                "train_steepness": train[name].statistics.steepness,
                "train_normalized_steepness": train[name].normalized.mean_steepness(train[name].rows),
                **structure(sets[name], module.target.space.shape_of, module.target.heads()).means(),
            }

            def d2D(inputs: Tensor, rows: Tensor = sets[name]) -> Tensor:  # noqa: N802 - the name of the quantity
                return linearizer(inputs.to(rows.device)).d2D(rows)

            own = module.target.own_figures(sets[name], d2D)
            figures[name].update({figure: float(each.double().mean()) for figure, each in own.items()})
            top = describe(judged.top, samples)
            if top[0] and "token_id" in top[0][0]:
                figures[name].update(reading(top))
        return figures

    def _recovery(
        self,
        module: Any,
        sets: dict[str, Tensor],
        features: list[Tensor],
        truth: Truth,
        figures: dict[str, dict[str, Any]],
    ) -> dict[str, Recovery]:
        """Add the figures of recovery to each set's."""
        means = scorecard.mean_by_feature(module.linearizer, torch.cat(list(sets.values())), features)
        of_sets = means.split([len(directions) for directions in sets.values()])
        recovered = {
            name: recovery_of(directions, truth, by_feature)
            for (name, directions), by_feature in zip(sets.items(), of_sets, strict=True)
        }
        for name, of_set in recovered.items():
            figures[name].update(of_set.scalars())
        return recovered

    def _affordable(self, rows: int) -> int:
        """How many samples, positions counted, are judged along so many directions."""
        return max(1, self.max_evaluations // rows)

    def _on_random_network(self, trainer: Trainer, module: Any) -> dict[str, Any]:
        """The figures of as many directions learned on the target with random parameters, judged there."""
        control = RandomNetwork(module, run_seed())
        data = trainer.datamodule  # type: ignore[attr-defined]
        sets = {"learned": control.directions}
        count = self._affordable(len(control.directions))
        heldout = scorecard.judge(self._heldout(trainer, control, count), sets, self.n_examples)
        train = scorecard.judge(self._train(trainer, control, count), sets, self.n_examples)
        figures = self._figures(data, module, sets, heldout, train, control.linearizer)
        if (features := self._features(module)) is not None:
            # Its own truth: what the same samples make of weights that were never trained.
            self._recovery(control, sets, features, self._truth_of(control, features, module.target), figures)
        of_text = (labels_of(data, heldout, train).figures, planted(data, heldout, train).figures)
        return {
            **figures["learned"],
            **{key: value for more in of_text for key, value in more.get("learned", {}).items()},
        }

    # ------------------------------------------------------------------------------------------------- controls

    def _features(self, module: Any) -> list[Tensor] | None:
        # A target of one's own may know its features too: this is all it has to have.
        of_target = getattr(module.target, "feature_inputs", None)
        return None if of_target is None else of_target(self.values_per_feature)

    def _truth_of(self, module: Any, features: list[Tensor], target: Any = None) -> Truth:
        return true_directions(module.linearizer, features, getattr(target or module.target, "feature_rank", 1))

    def _make_controls(self, trainer: Trainer, module: Any, like: Float[Tensor, "K P"]) -> dict[str, Tensor]:
        seed = run_seed()
        n_directions, size = like.shape
        principal = min(n_directions, size)
        block = size if size <= DENSE_UP_TO else max(min(principal, OVERSAMPLING), -(-principal // 3))
        start = random_directions(block, size, seed, self.random_draws).to(like)

        # A sweep multiplies a block, and about as many sweeps are needed as make four times K rows.
        count = self._affordable(4 * principal)

        def passes() -> Iterator[LinearizedBatch]:
            for _, linearized in self._train(trainer, module, count):
                yield linearized

        controls = {
            f"random {draw}": random_directions(n_directions, size, seed, draw).to(like) for draw in range(self._draws)
        }
        controls["pca"] = principal_directions(passes, principal, start, lambda tensor: reduced(tensor, "mean"))[0]
        return controls

    # -------------------------------------------------------------------------------------------------- samples

    def _train(self, trainer: Trainer, module: Any, most: int) -> Iterator[tuple[Any, LinearizedBatch]]:
        """The first training samples of epoch 0, whole batches, the same whenever asked for.

        Args:
            trainer: with the data.
            module: what linearizes them.
            most: samples, positions counted, after which no further batch is taken.
        """
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
        seen, counted = 0, 0
        for key in order:
            batch = trainer.strategy.batch_to_device(samples[key], module.device)
            linearized = module.linearize_dense(batch, samples)
            yield batch, linearized
            seen += order.batch_size
            counted += linearized.n_samples * trainer.world_size
            if seen >= self.train_samples or counted >= most:
                return

    def _heldout(self, trainer: Trainer, module: Any, most: int) -> Iterator[tuple[Any, LinearizedBatch]]:
        data, counted = trainer.datamodule, 0  # type: ignore[attr-defined]
        for batch in data.test_dataloader():
            batch = trainer.strategy.batch_to_device(batch, module.device)
            linearized = module.linearize_dense(batch, data.evaluation_sets["heldout"])
            yield batch, linearized
            counted += linearized.n_samples * trainer.world_size
            if counted >= most:
                return


def names_in(figures: Iterable[str]) -> list[str]:
    """The names of figures in the order of :data:`ORDER`, a target's own after them."""
    known = set(figures)
    return [*(name for name in ORDER if name in known), *sorted(known.difference(ORDER))]


def table(card: dict[str, Any]) -> Table:
    """The scorecard as a table: a row a figure, a column for the learned directions and for each control."""
    columns = [column for column in COLUMNS if column in card]
    made = Table("", *columns, title="Scorecard")
    for column in made.columns[1:]:
        column.justify = "right"
    for name in names_in(card["learned"]):
        cells = [shown(name, card[column][name], card) if name in card[column] else "" for column in columns]
        if card["random_draws"] > 1:
            at = columns.index("random")
            cells[at] += f" ± {card['random_spread'][name]:.2g}"
        made.add_row(name.replace("_", " "), *cells)
    return made


def shown(name: str, value: float, card: dict[str, Any]) -> str:
    """A figure with three digits; ``matched`` as a count out of the features."""
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{text} of {card['features']}" if name == "matched" else text
