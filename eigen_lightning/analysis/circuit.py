"""Which directions work on the same output of one sample, and whether they push it the same way."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eigen_lightning.curvature import LinearizedBatch
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import write_atomically

MOST_DIRECTIONS = 64
"""Cross terms are held for every pair of these: n^2 numbers a sample."""

QUANTILE = 0.95
"""Of the random directions' correlations; edges beyond it are more than chance."""


@dataclass(frozen=True)
class Circuit:
    """Directions active at the tokens of one text (or at other samples), joined where they move the same output.

    A node is a direction at a token, an edge joins two directions at the same token by the correlation of their
    tangents in the metric of the outputs, ``u_k^T H(x) u_l / sqrt(u_k^T H(x) u_k  u_l^T H(x) u_l)``: 1 where steps
    along both move the output alike, -1 where they cancel, 0 where they move different outputs.

    Attributes:
        tokens: what each sample is called.
        directions: the n directions that are active somewhere, ascending.
        curvature: their d2D, ``[n, tokens]``.
        active: at which tokens, ``[n, tokens]``.
        correlation: of each pair at each token, in [-1, 1], 0 where either has no effect, ``[n, n, tokens]``.
        control: absolute correlation that 95 % of pairs of random directions stay below at the same tokens; None
            where there are too few random directions to tell.
        text_correlation: the cross terms summed over all tokens before they are normalized, ``[n, n]``.
    """

    tokens: tuple[str, ...]
    directions: tuple[int, ...]
    curvature: Float[Tensor, "n tokens"]
    active: Bool[Tensor, "n tokens"]
    correlation: Float[Tensor, "n n tokens"]
    control: float | None
    text_correlation: Float[Tensor, "n n"]

    def edges(self, least: float | None = None) -> list[tuple[int, int, int, float]]:
        """Token, two directions active there, and their correlation, strongest first.

        Args:
            least: absolute correlation from which an edge counts; None takes the control's.
        """
        bar = (self.control or 0.0) if least is None else least
        together = self.active[:, None] & self.active[None] & (self.correlation.abs() >= bar)
        first, second, token = together.nonzero().unbind(1)
        pairs = [
            (t, self.directions[i], self.directions[j], float(self.correlation[i, j, t]))
            for i, j, t in zip(first.tolist(), second.tolist(), token.tolist(), strict=True)
            if i < j
        ]
        return sorted(pairs, key=lambda edge: -abs(edge[3]))

    def to_json(self) -> dict[str, Any]:
        """Nodes, edges and the control in primitives; edges below the control's bar are left out."""
        place = {k: i for i, k in enumerate(self.directions)}
        return {
            "tokens": list(self.tokens),
            "directions": list(self.directions),
            "control": self.control,
            "nodes": [
                {"token": t, "direction": self.directions[i], "d2D": float(self.curvature[i, t])}
                for i, t in self.active.nonzero().tolist()
            ],
            "edges": [
                {
                    "token": t,
                    "source": k,
                    "target": other,
                    "correlation": value,
                    "over_text": float(self.text_correlation[place[k], place[other]]),
                }
                for t, k, other, value in self.edges()
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write the graph: ``.json``, ``.graphml`` (nodes ``token:direction``) or ``.svg``.

        Raises:
            UserError: for any other ending.
        """
        path = Path(path)
        if path.suffix == ".json":
            content = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        elif path.suffix == ".graphml":
            content = self._graphml()
        elif path.suffix == ".svg":
            content = self._repr_svg_()
        else:
            raise UserError(f"expected a file ending in .json, .graphml or .svg, got {path.name}")
        write_atomically(path, content.encode())

    def _graphml(self) -> str:
        import networkx  # type: ignore[import-untyped]

        from eigen_lightning.report.text import is_hidden

        graph = networkx.Graph(control=-1.0 if self.control is None else self.control)
        facts = self.to_json()
        for node in facts["nodes"]:
            t, k = node["token"], node["direction"]
            graph.add_node(
                f"{t}:{k}", **node, text="".join("�" if is_hidden(each) else each for each in self.tokens[t])
            )
        for edge in facts["edges"]:
            t = edge["token"]
            figures = {name: edge[name] for name in ("correlation", "over_text")}
            graph.add_edge(f"{t}:{edge['source']}", f"{t}:{edge['target']}", **figures)
        return "\n".join(networkx.generate_graphml(graph, named_key_ids=True))

    def _repr_svg_(self) -> str:
        from eigen_lightning.report.circuit_figure import circuit_figure

        return circuit_figure(self.to_json(), alone=True)


def circuit(
    batch: LinearizedBatch,
    U: Float[Tensor, "K P"],
    random: Float[Tensor, "R P"],
    tokens: Sequence[str],
    per_token: int = 4,
) -> Circuit:
    """Join the directions that are active at each sample of a batch.

    Args:
        batch: linearized; its samples in row-major order are the tokens.
        U: directions.
        random: random directions, as control.
        tokens: what each sample is called.
        per_token: how many directions of largest d2D are active at each sample, those without any left out.

    Raises:
        UserError: where more directions are active than pairs of them can be held.
    """
    d = batch.d2D(U).flatten(1).cpu()
    largest = torch.zeros_like(d, dtype=torch.bool)
    largest.scatter_(0, d.topk(min(per_token, len(d)), dim=0).indices, True)
    largest &= d > 0
    chosen = largest.any(1).nonzero().flatten()
    if len(chosen) > MOST_DIRECTIONS:
        raise UserError(
            f"expected at most {MOST_DIRECTIONS} directions active on these samples, got {len(chosen)}: give a shorter "
            "text or fewer per_token"
        )
    cross = batch.cross(U[chosen.to(U.device)]).flatten(2).cpu() if len(chosen) else d.new_zeros(0, 0, d.shape[1])
    control = None
    if len(random) > 1:
        pairs = _normalized(batch.cross(random).flatten(2).cpu()).abs()
        above = torch.triu_indices(len(random), len(random), 1)
        some = pairs[above[0], above[1]]
        moved = some[:, (d > 0).any(0)].flatten()
        control = float(moved.quantile(QUANTILE)) if len(moved) else None
    return Circuit(
        tuple(tokens),
        tuple(chosen.tolist()),
        d[chosen],
        largest[chosen],
        _normalized(cross),
        control,
        _normalized(cross.sum(2, keepdim=True))[..., 0],
    )


def _normalized(cross: Float[Tensor, "n n samples"]) -> Float[Tensor, "n n samples"]:
    root = cross.diagonal(dim1=0, dim2=1).T.clamp_min(0).sqrt()
    product = root[:, None] * root[None]
    return torch.where(product > 0, cross / product, 0.0).clamp(-1, 1)
