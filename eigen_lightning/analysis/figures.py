"""The figures of a scorecard: their names, their order and how a terminal shows them."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

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
"""The learned directions and their controls."""


def names_in(figures: Iterable[str]) -> list[str]:
    """The names of figures in the order of :data:`ORDER`, a target's own after them."""
    known = set(figures)
    return [*(name for name in ORDER if name in known), *sorted(known.difference(ORDER))]


def in_order(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures in that order."""
    return {name: figures[name] for name in names_in(figures)}


def table(card: Mapping[str, Any]) -> Table:
    """A scorecard as a table: a row a figure, a column for the learned directions and for each control."""
    columns = [column for column in COLUMNS if column in card]
    made = Table("", *columns, title="Scorecard", caption=_of_truth(card))
    for column in made.columns[1:]:
        column.justify = "right"
    for name in names_in(card["learned"]):
        cells = [shown(name, card[column][name], card) if name in card[column] else "" for column in columns]
        if card["random_draws"] > 1:
            at = columns.index("random")
            cells[at] += f" ± {card['random_spread'][name]:.2g}"
        made.add_row(name.replace("_", " "), *cells)
    return made


def _of_truth(card: Mapping[str, Any]) -> str | None:
    """Whether the features are directions that can be told apart, where they are known."""
    if "truth" not in card:
        return None
    truth = card["truth"]
    return (
        f"the true directions hold {truth['eigenshare']:.2f} of their features' curvature (least "
        f"{truth['least_eigenshare']:.2f}); largest |cos| of two, mean {truth['overlap']:.2f}"
    )


def shown(name: str, value: float, card: Mapping[str, Any]) -> str:
    """A figure with three digits; ``matched`` as a count out of the features."""
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{text} of {card['features']}" if name == "matched" else text
