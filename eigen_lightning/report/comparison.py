"""Two runs side by side: which directions they share, and what random ones would."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.factored_rows import dense, isometric
from eigen_lightning.run.folder import RunFolder, write_atomically

DRAWS = 20
SHOWN_EXAMPLES = 4


@dataclass(frozen=True)
class Pair:
    """A direction of A and the one of B it was assigned to.

    Attributes:
        cosine: |cos| between them.
        shared: whether that is more than chance.
    """

    a: int
    b: int
    cosine: float
    shared: bool


@dataclass(frozen=True)
class Comparison:
    """The assignment of A's directions to B's, and the floor that random directions reach.

    Attributes:
        pairs: by falling |cos|.
        only_a: directions of A left over or unlike their match.
        only_b: the same of B.
        floor: mean |cos| of matched random directions.
        threshold: |cos| above which a pair counts as shared: half way from the largest random one to 1, at least 0.7.
    """

    pairs: list[Pair]
    only_a: list[int]
    only_b: list[int]
    floor: float
    threshold: float

    @property
    def n_shared(self) -> int:
        """How many pairs are shared."""
        return sum(pair.shared for pair in self.pairs)


def match(a: Float[np.ndarray, "K P"], b: Float[np.ndarray, "L P"]) -> tuple[list[tuple[int, int]], np.ndarray]:
    """The one-to-one assignment of largest summed |cos|, and the |cos| of each pair."""
    cosine = np.abs(a @ b.T)
    rows, columns = linear_sum_assignment(-cosine)
    return list(zip(rows.tolist(), columns.tolist(), strict=True)), cosine[rows, columns]


def compare(a: Float[np.ndarray, "K P"], b: Float[np.ndarray, "L P"], seed: int = 0) -> Comparison:
    """Match two sets of unit directions.

    Args:
        a: U of one run.
        b: U of the other.
        seed: of the random directions, as many as in B, that A is matched with for comparison.
    """
    chance = np.random.default_rng(seed)
    random = []
    for _ in range(DRAWS):
        drawn = chance.standard_normal(b.shape)
        random.append(match(a, drawn / np.linalg.norm(drawn, axis=1, keepdims=True))[1])
    threshold = max(0.7, (1 + float(np.concatenate(random).max())) / 2)
    matched, cosine = match(a, b)
    pairs = sorted(
        (
            Pair(row, column, float(value), bool(value > threshold))
            for (row, column), value in zip(matched, cosine, strict=True)
        ),
        key=lambda pair: -pair.cosine,
    )
    shared_a = {pair.a for pair in pairs if pair.shared}
    shared_b = {pair.b for pair in pairs if pair.shared}
    return Comparison(
        pairs,
        [k for k in range(len(a)) if k not in shared_a],
        [k for k in range(len(b)) if k not in shared_b],
        float(np.mean([each.mean() for each in random])),
        threshold,
    )


def write_comparison(run_a: RunFolder, run_b: RunFolder, path: Path) -> Comparison:
    """Write a page on two runs.

    Raises:
        UserError: where one holds no directions, or theirs lie in different parameter spaces.
    """
    from eigen_lightning.report.writing import render

    for run in (run_a, run_b):
        if not run.directions.exists():
            raise UserError(f"expected a run folder with directions, got {run.path}: run `fit` there first")
    (a, shapes_a), (b, shapes_b) = run_a.read_directions(), run_b.read_directions()
    if shapes_a != shapes_b:
        raise UserError(
            f"expected two runs over the same parameters, got {', '.join(shapes_a)} ({a.shape[1]} numbers) and "
            f"{', '.join(shapes_b)} ({b.shape[1]} numbers): compare runs of the same target"
        )
    rows_a, rows_b = (dense(each, "a comparison").double().numpy() for each in (a, b))
    found = compare(rows_a, rows_b)
    same_target = _fingerprint(run_a) == _fingerprint(run_b)
    page = render(
        "compare.html",
        title=f"{run_a.path.resolve().name} and {run_b.path.resolve().name}",
        found=found,
        sides=[_side(run_a, "A"), _side(run_b, "B")],
        same_target=same_target,
    )
    write_atomically(path, page.encode())
    return found


def _fingerprint(run: RunFolder) -> str | None:
    return run.read_json(run.manifest).get("target_fingerprint") if run.manifest.exists() else None


def _side(run: RunFolder, letter: str) -> dict[str, Any]:
    from eigen_lightning.report.cards import gather

    directions = isometric(run.read_directions()[0]).double().numpy()
    lines = run.read_top_examples() if run.top_examples.exists() else []
    short = [{"direction": line["direction"], "examples": line["examples"][:SHOWN_EXAMPLES]} for line in lines]
    details = run.read_lines(run.cards) if run.cards.exists() else []
    cards = gather(short, details, {}, directions, None, None, None, {})
    return {
        "letter": letter,
        "name": run.path.resolve().name,
        "cards": {card.k: card for card in cards},
        "count": len(directions),
    }
