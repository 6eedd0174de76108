"""The page of a benchmark of known circuits, and its table in Markdown, from the content of benchmark.json."""

import json
from pathlib import Path
from typing import Any

from eigen_lightning.run.folder import write_atomically

HEAD = (
    "system", "bar", "met", "learned (least)", "PCA", "random", "random network", "selectivity", "objective / truth's",
    "eigenshare", "largest cos", "CPU s",
)  # fmt: skip
COLUMNS = ("learned", "pca", "random", "random_network")
REPORTED = "none: report"
"""The bar of a system of which nothing is claimed."""


def rows(content: str) -> list[list[str]]:
    """The cells of each system under :data:`HEAD`."""
    return [_cells(system) for system in json.loads(content)["systems"]]


def markdown(content: str) -> str:
    """The table in Markdown, with what others published and how each system fails below it.

    Args:
        content: of benchmark.json.
    """
    lines = [HEAD, ["---"] * len(HEAD), *rows(content)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    notes = [
        f"- {system['title']}: {note}"
        for system in json.loads(content)["systems"]
        for note in (system["published"] and f"published: {system['published']}.", system["remark"])
        if note
    ]
    return text + "\n" + "\n".join(notes) + "\n"


def write_page(content: str, path: Path) -> None:
    """Write the page.

    Args:
        content: of benchmark.json.
        path: where to.
    """
    from eigen_lightning.report.writing import render

    stored = json.loads(content)
    first, last = stored["first_seed"], stored["first_seed"] + stored["seeds"] - 1
    page = render(
        "benchmark.html",
        title="Known circuits",
        head=HEAD,
        systems=list(zip(stored["systems"], rows(content), strict=True)),
        seeds=f"seed {first}" if first == last else f"seeds {first} to {last}",
    )
    write_atomically(path, page.encode())


def _cells(system: dict[str, Any]) -> list[str]:
    figure = "" if system["figure"] == "mcc" else f", {system['figure'].replace('_', ' ')}"
    of_columns = [_shown(system["mean"].get(column)) for column in COLUMNS]
    if system["least"] is not None:
        of_columns[0] += f" ({_shown(system['least'])})"
    of_truth = [_shown(system[name], 2) for name in ("selectivity", "objective", "eigenshare", "overlap")]
    # Where nothing is asked for, nothing is met.
    met = "" if system["bar"] == REPORTED else f"{system['met']} of {system['runs']}"
    return [system["title"] + figure, system["bar"], met, *of_columns, *of_truth, _shown(system["cpu_seconds"], 1)]


def _shown(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
