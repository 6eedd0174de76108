"""The scorecard: directions judged beside random, principal and true ones, on the same samples."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.analysis.controls import DENSE_UP_TO, OVERSAMPLING, principal_directions, random_directions
from eigen_lightning.analysis.evaluation import (
    Evaluated,
    evaluate,
    mean_and_spread,
    mean_by_feature,
    orthonormal_basis,
)
from eigen_lightning.analysis.figures import COLUMNS, in_order
from eigen_lightning.analysis.label_figures import groups_of, labels_of
from eigen_lightning.analysis.language import reading
from eigen_lightning.analysis.planted import planted
from eigen_lightning.analysis.recovery import Recovery
from eigen_lightning.analysis.structure import structure
from eigen_lightning.analysis.subject import Batch, EvaluationSamples, Subject
from eigen_lightning.analysis.subspaces import recovery_of
from eigen_lightning.analysis.top_examples import describe
from eigen_lightning.analysis.truth import Truth, true_directions
from eigen_lightning.curvature import LinearizedBatch
from eigen_lightning.run.collectives import reduced
from eigen_lightning.run.errors import UserError

MOST_DRAWN_ROWS = 256
"""Random directions of all draws together, where K leaves a choice."""

Figures = dict[str, dict[str, float]]
"""By set of directions, then by name."""


@dataclass(frozen=True)
class JudgeSettings:
    """How directions are judged.

    Attributes:
        random_draws: sets of random directions that the random control is the mean of; fewer where there are many
            directions.
        train_samples: training samples that the principal directions are learned, and train figures measured, on.
        values_per_feature: samples of each feature that the true directions come from.
        n_examples: top samples a direction that token purity is measured on.
        max_evaluations: directions (controls included) times samples that one set of samples is judged with at most;
            with many directions fewer samples are judged, and intervals grow.

    Raises:
        UserError: where a number is below 1.
    """

    random_draws: int = 4
    train_samples: int = 4096
    values_per_feature: int = 20
    n_examples: int = 20
    max_evaluations: int = 2**21

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise UserError(f"expected {name} of at least 1, got {value}")

    def affordable(self, rows: int) -> int:
        """How many samples, positions counted, are judged along so many directions."""
        return max(1, self.max_evaluations // rows)


@dataclass(frozen=True)
class Controls:
    """What directions are compared with.

    Attributes:
        sets: ``random 0``, ``random 1``, ...; ``pca``; ``oracle`` where the target knows its features.
        truth: the true directions, where it does.
        feature_inputs: for each feature the inputs on which it alone is present.
    """

    sets: dict[str, Float[Tensor, "K P"]]
    truth: Truth | None = None
    feature_inputs: list[Tensor] | None = None

    @property
    def draws(self) -> list[str]:
        """The names of the random sets."""
        return [name for name in self.sets if name.startswith("random ")]


@dataclass(frozen=True)
class Scorecard:
    """Directions judged; what ``scorecard.json`` holds.

    Attributes:
        figures: by column (``learned`` and its controls), then by name.
        random_spread: standard deviation of each figure over random draws.
        random_draws: how many there are.
        n_directions: K.
        n_parameters: P.
        recovered: the learned directions against the true ones, where the target knows its features.
        truth: how well posed that truth is.
        feature_names: of the features.
        labels: for each direction the rule on text that explains it.
        planted: for each direction its state of a grammar.
        structure: where each direction's norm lies.
        health: dead, duplicate and collapsed directions.
        samples: how many were judged on, by set.
    """

    figures: Figures
    random_spread: dict[str, float]
    random_draws: int
    n_directions: int
    n_parameters: int
    recovered: Recovery | None
    truth: dict[str, float] | None
    feature_names: list[str]
    labels: list[dict[str, Any]]
    planted: list[dict[str, Any]]
    structure: dict[str, Any]
    health: dict[str, Any]
    samples: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """JSON-able, a column a key."""
        card: dict[str, Any] = {column: in_order(self.figures[column]) for column in COLUMNS if column in self.figures}
        card |= {"random_spread": in_order(self.random_spread), "random_draws": self.random_draws}
        card |= {"n_directions": self.n_directions, "n_parameters": self.n_parameters}
        if self.recovered is not None:
            card["features"] = self.recovered.features
            card["truth"] = self.truth
            card["assignment"] = self.recovered.assignment(self.feature_names)
        card["labels"] = self.labels
        if self.planted:
            card["planted"] = self.planted
        return card | {"structure": self.structure, "health": self.health, "samples": self.samples}


def make_controls(
    subject: Subject, samples: EvaluationSamples, like: Float[Tensor, "K P"], settings: JudgeSettings, seed: int
) -> Controls:
    """Random directions, the principal directions of the mean Hessian (on training samples) and the true ones.

    Args:
        subject: the network.
        samples: to learn the principal directions on.
        like: directions as many, of their dtype and on their device.
        settings: how many of each.
        seed: of the random ones.
    """
    n_directions, size = like.shape
    principal = min(n_directions, size)
    block = size if size <= DENSE_UP_TO else max(min(principal, OVERSAMPLING), -(-principal // 3))
    start = random_directions(block, size, seed, settings.random_draws).to(like)
    # A sweep multiplies a block, and about as many sweeps are needed as make four times K rows.
    count = settings.affordable(4 * principal)
    draws = max(1, min(settings.random_draws, MOST_DRAWN_ROWS // n_directions))
    sets = {f"random {draw}": random_directions(n_directions, size, seed, draw).to(like) for draw in range(draws)}
    sets["pca"] = principal_directions(
        lambda: (linearized for _, linearized in _train(subject, samples, count, settings)),
        principal,
        start,
        lambda tensor: reduced(tensor, "mean"),
    )[0]
    features = _feature_inputs(subject, settings)
    if features is None:
        return Controls(sets)
    truth = true_directions(subject.linearizer, features, getattr(subject.target, "feature_rank", 1))
    return Controls({**sets, "oracle": truth.rows}, truth, features)


def judge(
    subject: Subject,
    samples: EvaluationSamples,
    directions: Float[Tensor, "K P"],
    controls: Controls,
    settings: JudgeSettings = JudgeSettings(),
    random_network: Callable[[], tuple[Subject, Tensor]] | None = None,
) -> Scorecard:
    """Judge directions beside their controls; on every rank, each with its share of the samples.

    Args:
        subject: the network that they are directions of.
        samples: to judge on.
        directions: U.
        controls: see :func:`make_controls`.
        settings: on how much.
        random_network: the same network with random weights, and as many directions learned on it.
    """
    sets = {"learned": directions, **controls.sets}
    bases = {f"basis of {name}": orthonormal_basis(rows) for name, rows in sets.items() if name != "pca"}
    heldout, train = _evaluated(subject, samples, sets, bases, settings)
    figures = _figures(subject, samples, sets, heldout, train)
    labels = labels_of(samples, heldout, train)
    of_states = planted(samples, heldout, train)
    for more in (labels.figures, of_states.figures):
        for name, of_set in more.items():
            figures[name].update(of_set)
    principal = float(train["pca"].statistics.mean.sum())
    for name in sets:
        spanned = train["pca" if name == "pca" else f"basis of {name}"]
        figures[name]["explained_curvature"] = float(spanned.statistics.mean.sum()) / principal
    recovered = None
    if controls.truth is not None and controls.feature_inputs is not None:
        recovered = _recovery(subject, sets, controls.feature_inputs, controls.truth, figures)["learned"]
    figures["random"], spread = mean_and_spread([figures.pop(name) for name in controls.draws])
    if random_network is not None:
        figures["random_network"] = _on_random_network(*random_network(), samples, settings)
    return Scorecard(
        figures=figures,
        random_spread=spread,
        random_draws=len(controls.draws),
        n_directions=len(directions),
        n_parameters=directions.shape[1],
        recovered=recovered,
        truth=None if controls.truth is None else controls.truth.to_json(),
        feature_names=_feature_names(subject, 0 if recovered is None else recovered.features),
        labels=labels.of_learned,
        planted=of_states.of_learned,
        structure=structure(directions, subject.target.space.shape_of, subject.target.heads()).to_json(),
        health=asdict(heldout["learned"].health),
        samples={name: of["learned"].statistics.n_samples for name, of in (("heldout", heldout), ("train", train))},
    )


def _on_random_network(
    subject: Subject, directions: Float[Tensor, "K P"], samples: EvaluationSamples, settings: JudgeSettings
) -> dict[str, float]:
    """The figures of directions learned on the target with random parameters, judged there."""
    sets = {"learned": directions}
    heldout, train = _evaluated(subject, samples, sets, {}, settings)
    figures = _figures(subject, samples, sets, heldout, train)
    if (features := _feature_inputs(subject, settings)) is not None:
        # Its own truth: what the same samples make of weights that were never trained.
        truth = true_directions(subject.linearizer, features, getattr(subject.target, "feature_rank", 1))
        _recovery(subject, sets, features, truth, figures)
    for more in (labels_of(samples, heldout, train).figures, planted(samples, heldout, train).figures):
        figures["learned"].update(more.get("learned", {}))
    return figures["learned"]


def _evaluated(
    subject: Subject,
    samples: EvaluationSamples,
    sets: Mapping[str, Tensor],
    also_on_train: Mapping[str, Tensor],
    settings: JudgeSettings,
) -> tuple[dict[str, Evaluated], dict[str, Evaluated]]:
    """Sets of directions on held-out and on training samples."""
    count = settings.affordable(sum(map(len, sets.values())))
    batches = subject.linearized(samples.heldout_batches(), samples.heldout_set, count, samples.world_size)
    heldout = evaluate(batches, sets, settings.n_examples)
    on_train = {**sets, **also_on_train}
    count = settings.affordable(sum(map(len, on_train.values())))
    return heldout, evaluate(_train(subject, samples, count, settings), on_train, settings.n_examples)


def _train(
    subject: Subject, samples: EvaluationSamples, most: int, settings: JudgeSettings
) -> Iterator[tuple[Batch, LinearizedBatch]]:
    batches, world_size = samples.train_batches(), samples.world_size
    return subject.linearized(batches, samples.train_set, most, world_size, settings.train_samples)


def _figures(
    subject: Subject,
    samples: EvaluationSamples,
    sets: Mapping[str, Tensor],
    heldout: Mapping[str, Evaluated],
    train: Mapping[str, Evaluated],
) -> Figures:
    """What every set of directions is judged by, and what the target itself says of them."""
    group = groups_of(samples.heldout_set, heldout["learned"].normalized.sample_id)
    target, figures = subject.target, {}
    for name, on_heldout in heldout.items():
        figures[name] = {
            **on_heldout.scalars(group),
            "coverage": on_heldout.normalized.coverage(on_heldout.rows, subject.exponent, subject.power),
            "train_steepness": train[name].statistics.steepness,
            "train_normalized_steepness": train[name].normalized.mean_steepness(train[name].rows),
            **structure(sets[name], target.space.shape_of, target.heads()).means(),
        }

        def d2D(inputs: Tensor, rows: Tensor = sets[name]) -> Tensor:  # noqa: N802 - the name of the quantity
            return subject.linearizer(inputs.to(rows.device)).d2D(rows)

        own = target.own_figures(sets[name], d2D)
        figures[name].update({figure: float(each.double().mean()) for figure, each in own.items()})
        top = describe(on_heldout.top, samples.heldout_set)
        if top[0] and "token_id" in top[0][0]:
            figures[name].update(reading(top))
    return figures


def _recovery(
    subject: Subject, sets: Mapping[str, Tensor], features: list[Tensor], truth: Truth, figures: Figures
) -> dict[str, Recovery]:
    """Add the figures of recovery to each set's."""
    means = mean_by_feature(subject.linearizer, torch.cat(list(sets.values())), features)
    of_sets = means.split([len(directions) for directions in sets.values()])
    recovered = {
        name: recovery_of(directions, truth, by_feature)
        for (name, directions), by_feature in zip(sets.items(), of_sets, strict=True)
    }
    for name, of_set in recovered.items():
        figures[name].update(of_set.scalars())
    return recovered


def _feature_names(subject: Subject, count: int) -> list[str]:
    # A target of one's own need not name its features.
    return list(getattr(subject.target, "feature_names", None) or [f"feature {index}" for index in range(count)])


def _feature_inputs(subject: Subject, settings: JudgeSettings) -> list[Tensor] | None:
    # A target of one's own may know its features too: this is all it has to have.
    of_target = getattr(subject.target, "feature_inputs", None)
    return None if of_target is None else of_target(settings.values_per_feature)
