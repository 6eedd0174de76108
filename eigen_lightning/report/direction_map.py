"""All directions on one map: how steep each is, and how selective; a click leads to its card."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from eigen_lightning.report.text import as_plain_text, number

WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 320, 240, 44, 36, 18
NUMBERED_UP_TO = 40
"""Directions whose numbers stand beside their points."""


def direction_map(
    steepness: Sequence[float | None], selectivity: Sequence[float | None], names: Sequence[str]
) -> Markup:
    """A point a direction on logarithmic axes, each a link to ``#direction-k``.

    Args:
        steepness: of each direction, on held-out samples.
        selectivity: how many times as much its top samples changed as random ones; None where it was not measured.
        names: what each responds to.

    Returns:
        Empty where fewer than two directions have both numbers.
    """
    points = {
        k: (math.log10(steep), math.log10(selective))
        for k, (steep, selective) in enumerate(zip(steepness, selectivity, strict=True))
        if steep and selective and steep > 0 and 0 < selective < math.inf
    }
    if len(points) < 2:
        return Markup("")
    (left, right), (low, high) = (_range([point[axis] for point in points.values()]) for axis in (0, 1))

    def x(value: float) -> float:
        return LEFT + (value - left) / (right - left) * (WIDTH - LEFT - MARGIN)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - MARGIN)

    parts = [_axis(x(tick), HEIGHT - 20, "middle", tick, (x(tick), x(tick), MARGIN, HEIGHT - BOTTOM))
             for tick in _ticks(left, right)]  # fmt: skip
    parts += [_axis(LEFT - 6, y(tick) + 4, "end", tick, (LEFT, WIDTH - MARGIN, y(tick), y(tick)))
              for tick in _ticks(low, high)]  # fmt: skip
    for k, (across, up) in points.items():
        figures = f"steepness {number(10**across, 2)}, selectivity {number(10**up, 2)}"
        told = f"direction {k}, {as_plain_text(names[k])}: {figures}"
        parts.append(
            Markup(
                '<a href="#direction-{}" aria-label="{}"><circle cx="{:.1f}" cy="{:.1f}" r="5"/><title>{}</title>'
            ).format(k, told, x(across), y(up), told)
        )
        if len(points) <= NUMBERED_UP_TO:
            parts.append(Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(x(across) + 7, y(up) + 4, k))
        parts.append(Markup("</a>"))
    parts.append(Markup('<text x="{}" y="{}" text-anchor="end">steepness</text>').format(WIDTH - MARGIN, HEIGHT - 4))
    parts.append(Markup('<text x="4" y="12">selectivity</text>'))
    return Markup('<svg class="map" viewBox="0 0 {} {}" role="group" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, "Directions by steepness and selectivity", Markup("").join(parts)
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    """With room at both ends, and wide enough to have a tick."""
    least, most = min(values), max(values)
    room = max(0.08 * (most - least), 0.15)
    return least - room, most + room


def _ticks(least: float, most: float) -> list[float]:
    """Powers of ten, or of ten and their doubles and fives, in a range of logarithms."""
    whole = [float(power) for power in range(math.ceil(least), math.floor(most) + 1)]
    if len(whole) >= 2:
        return whole[:: -(-len(whole) // 6)]
    steps = [power + math.log10(digit) for power in range(math.floor(least), math.ceil(most)) for digit in (1, 2, 5)]
    return [step for step in steps if least <= step <= most]


def _axis(x: float, y: float, anchor: str, tick: float, line: tuple[float, float, float, float]) -> Markup:
    x1, x2, y1, y2 = line
    text = number(10**tick, 2)
    drawn = Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(x1, x2, y1, y2)
    return drawn + Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
