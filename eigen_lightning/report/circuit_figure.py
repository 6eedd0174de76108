"""A circuit as SVG: tokens from left to right, the directions active at each as dots, correlations as arcs."""

from typing import Any

from markupsafe import Markup

from eigen_lightning.report.text import is_hidden, number

STEP, ROW, TOP, LEFT = 64, 26, 24, 20

MOST_TOKENS = 120
"""Tokens drawn; a longer text is cut, which its last label says."""

STYLE = (
    "svg.circuit text{font:11px sans-serif;fill:#777}"
    "svg.circuit circle{fill:#4477aa}"
    "svg.circuit path{fill:none;stroke:#228833;stroke-opacity:.75}"
    "svg.circuit path.against{stroke:#cc3311;stroke-dasharray:4 2}"
)
"""Of a figure that stands alone; a page has its own."""


def circuit_figure(circuit: dict[str, Any], alone: bool = False) -> Markup:
    """One column a token, one row a direction; dots grow with d2D, arcs join directions that move the same output.

    Dashed arcs join directions that cancel. Hover tells the numbers.

    Args:
        circuit: what ``Circuit.to_json`` returns.
        alone: bring the style along, as for a file of its own.
    """
    tokens, rows = circuit["tokens"], {k: row for row, k in enumerate(circuit["directions"])}
    shown = min(len(tokens), MOST_TOKENS)
    largest = max((node["d2D"] for node in circuit["nodes"]), default=1.0)
    width, height = LEFT + 30 + STEP * (shown + 1), TOP + ROW * (len(rows) + 1)

    def place(token: int, k: int) -> tuple[float, float]:
        return LEFT + 30 + STEP * (token + 0.25), TOP + ROW * (rows[k] + 0.5)

    parts = [Markup('<text x="2" y="{}">{}</text>').format(place(0, k)[1] + 4, k) for k in rows]
    for token in range(shown):
        parts.append(Markup('<text x="{}" y="14">{}</text>').format(LEFT + 24 + STEP * token, _short(tokens[token])))
    if shown < len(tokens):
        parts.append(
            Markup('<text x="{}" y="14">... of {} tokens</text>').format(LEFT + 24 + STEP * shown, len(tokens))
        )
    for edge in circuit["edges"]:
        if edge["token"] >= shown:
            continue
        x, first = place(edge["token"], edge["source"])
        second = place(edge["token"], edge["target"])[1]
        bend = x + 8 + min(34, abs(second - first) / 3)
        parts.append(
            Markup('<path class="{}" stroke-width="{:.1f}" d="M{:.1f} {:.1f}Q{:.1f} {:.1f} {:.1f} {:.1f}">').format(
                "against" if edge["correlation"] < 0 else "with",
                0.5 + 3 * abs(edge["correlation"]),
                *(x, first, bend, (first + second) / 2, x, second),
            )
            + Markup("<title>{} and {}: correlation {}, over the text {}</title></path>").format(
                edge["source"], edge["target"], number(edge["correlation"]), number(edge["over_text"])
            )
        )
    for node in circuit["nodes"]:
        if node["token"] < shown:
            x, y = place(node["token"], node["direction"])
            radius = 2 + 7 * (node["d2D"] / largest) ** 0.5
            parts.append(
                Markup(
                    '<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>direction {} at {}: d2D {}</title></circle>'
                ).format(x, y, radius, node["direction"], _short(tokens[node["token"]]), number(node["d2D"]))
            )
    style = Markup("<style>{}</style>").format(Markup(STYLE)) if alone else Markup("")
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="circuit" viewBox="0 0 {} {}" width="{}" height="{}" role="img">'
        "<title>Directions active at each token and how their effects correlate</title>{}{}</svg>"
    ).format(width, height, width, height, style, Markup("").join(parts))


def _short(label: str) -> str:
    """A token as a few visible characters."""
    visible = "".join(f"U+{ord(each):04X}" if is_hidden(each) else each for each in label)
    return visible if len(visible) <= 9 else f"{visible[:8]}…"
