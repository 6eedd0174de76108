"""What a direction's card in the report needs beyond its top examples: its histogram, and d2D of every token around."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eigen_lightning.analysis.histogram import edges
from eigen_lightning.curvature import LinearizedBatch
from eigen_lightning.run.waiting import Waiting

WINDOWS_AT_ONCE = 32


@dataclass(frozen=True)
class DirectionCard:
    """One line of ``cards.jsonl``.

    Attributes:
        direction: which.
        histogram: ``log10_edges`` and ``counts`` of d2D over the bins that hold any, the number ``below``, and of all.
        contexts: for text, the tokens of each top example's window and d2D on each; otherwise empty.
    """

    direction: int
    histogram: dict[str, Any]
    contexts: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def direction_cards(
    linearize: Callable[[Tensor], LinearizedBatch],
    samples: Any,
    rows: Float[Tensor, "K n"],
    lines: list[dict[str, Any]],
    counts: Int[Tensor, "K bins+2"],
) -> list[DirectionCard]:
    """A card for each direction.

    Args:
        linearize: inputs of the target, with its trained weights, linearized for rows such as ``rows``.
        samples: the held-out samples.
        rows: U, or the coordinates of directions held as factors.
        lines: the content of ``top_examples.jsonl``.
        counts: from :class:`CurvatureHistogramMetric`.
    """
    contexts: list[list[dict[str, Any]]] = [[] for _ in lines]
    if hasattr(samples, "tokens"):
        contexts = _contexts(linearize, samples, rows, lines)
    borders = [round(float(edge), 14) for edge in edges().log10()]
    return [
        DirectionCard(line["direction"], _histogram(row, borders), context)
        for line, row, context in zip(lines, counts.tolist(), contexts, strict=True)
    ]


def _histogram(row: list[int], borders: list[float]) -> dict[str, Any]:
    inside = [index for index, count in enumerate(row[1:-1]) if count]
    first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
    return {
        "log10_edges": borders[first : last + 1] if inside else [],
        "counts": row[1 + first : 1 + last],
        "below": row[0],
        "samples": sum(row),
    }


def _contexts(
    linearize: Callable[[Tensor], LinearizedBatch], samples: Any, rows: Tensor, lines: list[dict[str, Any]]
) -> list[list[dict[str, Any]]]:
    directions_at: dict[int, list[int]] = {}
    for k, line in enumerate(lines):
        for example in line["examples"]:
            directions_at.setdefault(example["sample_id"], []).append(k)
    values: dict[tuple[int, int], list[float]] = {}
    identities = list(directions_at)
    with Waiting("Shading the tokens of top examples", len(identities)) as waiting:
        for start in range(0, len(identities), WINDOWS_AT_ONCE):
            part = identities[start : start + WINDOWS_AT_ONCE]
            batch = samples.batch(0, torch.tensor([samples.locate(identity)[1] for identity in part]))
            curvature = linearize(batch.inputs.to(rows.device)).d2D(rows).cpu()
            for column, identity in enumerate(part):
                for k in directions_at[identity]:
                    values[k, identity] = [float(f"{value:.4g}") for value in curvature[k, column].tolist()]
            waiting.reach(start + len(part))
    tokens = {identity: samples.tokens(identity) for identity in identities}
    return [
        [
            {
                "sample_id": example["sample_id"],
                "position": example["position"],
                "tokens": tokens[example["sample_id"]],
                "values": values[k, example["sample_id"]],
            }
            for example in line["examples"]
        ]
        for k, line in enumerate(lines)
    ]
