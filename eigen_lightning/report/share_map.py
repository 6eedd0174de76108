"""Where each direction lies in the network: its share of squared norm by parameter, as a heat map."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from eigen_lightning.report.text import level

MOST_ROWS = 96
"""Directions drawn: the first ones."""

CELL, LEFT, TOP = 12, 30, 150


def share_map(directions: Float[np.ndarray, "K P"], shapes: Mapping[str, tuple[int, ...]]) -> Markup:
    """A row a direction, a column a parameter in the network's order; hover tells the share.

    Args:
        directions: U.
        shapes: shape of each parameter by name, in the order of P.

    Returns:
        Empty where there is one parameter only.
    """
    if len(shapes) < 2:
        return Markup("")
    shares = shares_by_parameter(directions[:MOST_ROWS], shapes)
    parts = [
        Markup('<text x="{}" y="{}" transform="rotate(-60 {} {})">{}</text>').format(
            *(LEFT + CELL * (column + 1), TOP - 4) * 2, name
        )
        for column, name in enumerate(shapes)
    ]
    for row, line in enumerate(shares):
        if row % 8 == 0:
            parts.append(Markup('<text x="2" y="{}">{}</text>').format(TOP + CELL * row + 10, row))
        for column, (name, share) in enumerate(zip(shapes, line, strict=True)):
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
    width, height = LEFT + CELL * len(shapes) + 90, TOP + CELL * len(shares) + 4
    return Markup(
        '<svg class="shares" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, width, height, "Share of each direction by parameter", Markup("").join(parts))


def shares_by_parameter(
    directions: Float[np.ndarray, "K P"], shapes: Mapping[str, tuple[int, ...]]
) -> Float[np.ndarray, "K parameters"]:
    """Each parameter's share of each direction's squared norm; 0 of a direction that is 0."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]
    norms = np.stack([np.square(part).sum(1) for part in np.split(directions, ends, axis=1)], axis=1)
    return norms / np.maximum(norms.sum(1, keepdims=True), np.finfo(float).tiny)
