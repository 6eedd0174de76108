"""Plots as inline SVG, colored by classes so that they follow the page from light to dark and to paper."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from eigen_lightning.report.text import level, number

Points = Sequence[tuple[float, float]]


def heat_map(lower: Float[np.ndarray, "K K"], upper: Float[np.ndarray, "K K"], order: Int[np.ndarray, " K"]) -> Markup:
    """Two symmetric matrices in one picture: one below the diagonal, one above; hover tells a cell's value."""
    count, cell = len(order), 10
    cells = []
    for row, k in enumerate(order):
        for column, other in enumerate(order):
            if row == column:
                continue
            below = row > column
            value = float((lower if below else upper)[k, other])
            what = "interference" if below else "co-activity"
            cells.append(
                Markup(
                    '<rect class="{}{}" x="{}" y="{}" width="{}" height="{}"><title>{} × {}, {}: {}</title></rect>'
                ).format(
                    "h" if below else "c",
                    level(value, 1.0),
                    column * cell,
                    row * cell,
                    cell,
                    cell,
                    k,
                    other,
                    what,
                    number(value),
                )
            )
        cells.append(
            Markup(
                '<rect class="diagonal" x="{}" y="{}" width="{}" height="{}"><title>direction {}</title></rect>'
            ).format(row * cell, row * cell, cell, cell, k)
        )
    return _svg(
        count * cell,
        count * cell,
        Markup("").join(cells),
        "Interference below the diagonal, co-activity above",
        "matrix",
    )


def histogram(log10_edges: Sequence[float], counts: Sequence[int], below: int) -> Markup:
    """Counts of samples by d2D on a logarithmic axis; those at zero in a bar of their own. Heights are square roots."""
    width, height, bottom, left = 320, 110, 18, 26
    filled = list(counts)
    if not filled:
        return Markup("")
    tallest = math.sqrt(max([*filled, below]))
    first = math.floor(log10_edges[0])
    last = max(first + 1, math.ceil(log10_edges[-1]))

    def x(log: float) -> float:
        return left + (log - first) / (last - first) * (width - left - 4)

    def bar(start: float, end: float, count: int, title: str) -> Markup:
        tall = math.sqrt(count) / tallest * (height - bottom - 6)
        return Markup(
            '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
        ).format(start, height - bottom - tall, max(1.0, end - start - 0.6), tall, title)

    bars = [
        bar(x(low), x(high), count, f"{count:,} samples, d2D {number(10**low, 2)} to {number(10**high, 2)}")
        for low, high, count in zip(log10_edges, log10_edges[1:], filled, strict=False)
        if count
    ]
    if below:
        bars.append(bar(2, left - 8, below, f"{below:,} samples without any"))
        bars.append(_label(9, height - 5, "0", "middle"))
    step = max(1, (last - first) // 5)
    ticks = [_label(x(tick), height - 5, _power(tick), "middle") for tick in range(first, last + 1, step)]
    base = Markup('<line class="axis" x1="0" x2="{}" y1="{}" y2="{}"/>').format(width, height - bottom, height - bottom)
    return _svg(width, height, Markup("").join([*bars, base, *ticks]), "Samples by d2D, logarithmic", "plot")


def intervention_curve(line: dict[str, Any]) -> Markup:
    """True divergence against the step, both logarithmic: top samples each way, prediction, random samples, control."""
    width, height, left, bottom = 320, 190, 34, 20
    half = len(line["deltas"]) // 2
    deltas = [math.log10(delta) for delta in line["deltas"][half:]]
    low, high = -6.0, 1.0
    first, last = deltas[0], deltas[-1]

    def at(delta: float, value: float) -> tuple[float, float]:
        clipped = min(high, max(low, math.log10(value) if value > 0 else low))
        return (
            left + (delta - first) / (last - first) * (width - left - 8),
            6 + (high - clipped) / (high - low) * (height - bottom - 12),
        )

    def series(values: Sequence[float], name: str, title: str, dots: bool = False) -> Markup:
        points = [at(delta, value) for delta, value in zip(deltas, values, strict=True)]
        path = _path(points, name, title)
        if not dots:
            return path
        return path + Markup("").join(
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.6"><title>{}, δ {}: {}</title></circle>').format(
                name, px, py, title, number(10**delta), number(value)
            )
            for (px, py), delta, value in zip(points, deltas, values, strict=True)
        )

    def both(field: str) -> list[float]:
        values = line[field]
        return [(a + b) / 2 for a, b in zip(values[half:], reversed(values[:half]), strict=True)]

    drawn = [
        series(both("control_random"), "control", "random direction, random samples"),
        series(both("control_top"), "control", "random direction, same top samples"),
        series(both("random"), "others", "this direction, random samples"),
        series(line["predicted"][half:], "predicted", "predicted, δ²·d2D/2"),
        series(list(reversed(line["top"][:half])), "minus", "top samples, −δ", dots=True),
        series(line["top"][half:], "plus", "top samples, +δ", dots=True),
    ]
    axis = [
        Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
            left, width, at(first, 10**tick)[1], at(first, 10**tick)[1]
        )
        + _label(left - 4, at(first, 10.0**tick)[1] + 3, _power(tick), "end")
        for tick in range(int(low), int(high) + 1, 2)
    ]
    ends = [
        _label(left, height - 5, f"δ {number(10**first, 2)}", "start"),
        _label(width - 4, height - 5, number(10**last, 2), "end"),
    ]
    return _svg(
        width, height, Markup("").join([*axis, *drawn, *ends]), "True divergence after a step of the weights", "plot"
    )


def bars(values: Sequence[float], largest: float) -> Markup:
    """The numbers of one toy input, a bar each."""
    cell, height = (16, 26) if len(values) <= 12 else (7, 26)
    drawn = [
        Markup('<rect class="slot" x="{}" y="0" width="{}" height="{}"/>').format(index * cell, cell - 2, height)
        if len(values) <= 12
        else Markup("")
        for index in range(len(values))
    ]
    for index, value in enumerate(values):
        if value:
            tall = min(1.0, abs(value) / largest) * height
            drawn.append(
                Markup(
                    '<rect class="bar" x="{}" y="{:.1f}" width="{}" height="{:.1f}"><title>input {}: {}</title></rect>'
                ).format(index * cell, height - tall, cell - 2, tall, index, number(value))
            )
    numbers = ", ".join(number(value) for value in values)
    return _svg(len(values) * cell, height, Markup("").join(drawn), f"input [{numbers}]", "bars")


def series(values: Sequence[float]) -> Markup:
    """A series of numbers as a line."""
    width, height = 220, 34
    low, high = min(values), max(values)
    points = [
        (index / (len(values) - 1) * width, height - 2 - (value - low) / ((high - low) or 1.0) * (height - 4))
        for index, value in enumerate(values)
    ]
    title = f"{len(values)} numbers, {number(low)} to {number(high)}"
    return _svg(width, height, _path(points, "minus", title), title, "plot")


def hidden_space(W: Float[np.ndarray, "2 features"], moved: Float[np.ndarray, "2 features"]) -> Markup:
    """A toy model's features as spokes of its hidden plane, and arrows for what a direction does to each."""
    side = 200
    scale = side / 2.9 / max(1e-12, float(np.linalg.norm(W, axis=0).max()))
    longest = max(1e-12, float(np.linalg.norm(moved, axis=0).max()))
    arrow = 0.45 * float(np.linalg.norm(W, axis=0).max()) / longest

    def at(point: Any) -> tuple[float, float]:
        return side / 2 + scale * float(point[0]), side / 2 - scale * float(point[1])

    parts = []
    for index in range(W.shape[1]):
        tip = W[:, index]
        (x, y), (ex, ey) = at(tip), at(tip + arrow * moved[:, index])
        lx, ly = at(tip * (1 + 0.28 * np.linalg.norm(W, axis=0).max() / max(1e-9, np.linalg.norm(tip))))
        parts.append(
            Markup('<line class="spoke" x1="{}" y1="{}" x2="{:.1f}" y2="{:.1f}"/>').format(side / 2, side / 2, x, y)
        )
        parts.append(Markup('<circle class="spoke" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(x, y))
        if W.shape[1] <= 12:
            parts.append(_label(lx, ly + 4, str(index), "middle"))
        size = math.hypot(ex - x, ey - y)
        if size > 3:
            dx, dy = (ex - x) / size, (ey - y) / size
            left = (ex - 6 * dx - 3 * dy, ey - 6 * dy + 3 * dx)
            right = (ex - 6 * dx + 3 * dy, ey - 6 * dy - 3 * dx)
            head = " ".join(f"{px:.1f},{py:.1f}" for px, py in ((ex, ey), left, right))
            parts.append(
                Markup('<line class="arrow" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(x, y, ex, ey)
            )
            parts.append(Markup('<polygon class="arrow" points="{}"/>').format(head))
    return _svg(
        side,
        side,
        Markup("").join(parts),
        "Features in the hidden space, and where the direction moves them",
        "geometry",
    )


def _svg(width: float, height: float, content: Markup, label: str, name: str) -> Markup:
    return Markup(
        '<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    ).format(name, width, height, width, height, label, content)


def _label(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _path(points: Points, name: str, title: str) -> Markup:
    steps = " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
    return Markup('<path class="{}" d="{}"><title>{}</title></path>').format(name, steps, title)


def _power(exponent: int) -> str:
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
