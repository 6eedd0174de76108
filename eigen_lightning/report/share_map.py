"""Where each direction lies in the network: its share of squared norm by parameter and head, as a heat map."""

import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from eigen_lightning.report.text import level
from eigen_lightning.run.factored_rows import Rows

MOST_ROWS = 96
"""Directions drawn: the first ones."""

MOST_COLUMNS = 160
"""Heads are drawn apart where there are no more columns than that."""

CELL, LEFT, TOP = 12, 30, 150


def share_map(
    directions: Rows,
    shapes: Mapping[str, tuple[int, ...]],
    heads: Mapping[str, tuple[int, int]] | None = None,
) -> Markup:
    """A row a direction, a column a parameter, or one head of it, in the network's order; hover tells the share.

    Args:
        directions: U ``[K, P]``.
        shapes: shape of each parameter by name, in the order of P.
        heads: for parameters that attention heads share, how many there are and along which axis.

    Returns:
        Empty where there is one parameter only, and no heads share it.
    """
    apart = heads or {}
    if len(shapes) + sum(count - 1 for count, _ in apart.values()) > MOST_COLUMNS:
        apart = {}
    drawn = itertools.islice((row[None].double().numpy() for row in directions), MOST_ROWS)
    by_row = [shares_by_place(row, shapes, apart) for row in drawn]
    names, shares = by_row[0][0], np.concatenate([share for _, share in by_row])
    if len(names) < 2:
        return Markup("")
    parts = [
        Markup('<text x="{}" y="{}" transform="rotate(-60 {} {})">{}</text>').format(
            *(LEFT + CELL * (column + 1), TOP - 4) * 2, name
        )
        for column, name in enumerate(names)
    ]
    for row, line in enumerate(shares):
        if row % 8 == 0:
            parts.append(Markup('<text x="2" y="{}">{}</text>').format(TOP + CELL * row + 10, row))
        for column, (name, share) in enumerate(zip(names, line, strict=True)):
            parts.append(
                Markup(
                    '<rect class="h{}" x="{}" y="{}" width="{}" height="{}"><title>{}: {} in {}</title></rect>'
                ).format(
                    level(share, 1.0),
                    LEFT + CELL * column,
                    TOP + CELL * row,
                    CELL,
                    CELL,
                    f"direction {row}",
                    f"{share:.0%}",
                    name,
                )
            )
    width, height = LEFT + CELL * len(names) + 90, TOP + CELL * len(shares) + 4
    return Markup(
        '<svg class="shares" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, width, height, "Share of each direction by parameter and head", Markup("").join(parts))


def shares_by_place(
    directions: Float[np.ndarray, "K P"], shapes: Mapping[str, tuple[int, ...]], heads: Mapping[str, tuple[int, int]]
) -> tuple[list[str], Float[np.ndarray, "K places"]]:
    """Each place's name, and its share of each direction's squared norm; 0 of a direction that is 0."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]
    names: list[str] = []
    norms = []
    for (name, shape), part in zip(shapes.items(), np.split(directions, ends, axis=1), strict=True):
        count, axis = heads.get(name, (1, 0))
        squares = np.moveaxis(np.square(part).reshape(len(part), *shape), axis % len(shape) + 1, 1)
        norms.append(squares.reshape(len(part), count, -1).sum(2))
        names += [name] if count == 1 else [f"{name} head {head}" for head in range(count)]
    found = np.concatenate(norms, axis=1)
    return names, found / np.maximum(found.sum(1, keepdims=True), np.finfo(float).tiny)
