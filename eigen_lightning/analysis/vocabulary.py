"""A direction read through the vocabulary: which tokens its matrices read, promote, and let attend to each other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

CONTROLS = 16
"""Random vectors that set how sharp a reading is by chance."""


KINDS = {
    "W_Q": "attends",
    "W_K": "attends",
    "W_V": "reads",
    "W_in": "reads",
    "W_gate": "reads",
    "W_O": "promotes",
    "W_out": "promotes",
}
"""What a matrix's leading pair says of tokens; of W_V, W_in and W_gate the reading side, of W_O and W_out the other."""


class Reader(Protocol):
    """What reads vectors as tokens; :class:`eigen_lightning.targets.vocabulary.VocabularyReader` is one."""

    def oriented(self, name: str, matrix: Tensor) -> Tensor: ...

    def read(self, name: str, vector: Tensor) -> Tensor: ...

    def written(self, vector: Tensor) -> Tensor: ...

    def partner(self, name: str, vector: Tensor, head: int) -> Tensor: ...


@dataclass(frozen=True)
class Side:
    """One vector's scores of all tokens, in standard deviations over the vocabulary.

    Attributes:
        tokens: the highest, with their scores.
        opposite: the lowest, with theirs: what a step the other way favors.
        sharpness: the largest score either way.
        control: that of random vectors in the same place, their mean.
    """

    tokens: tuple[tuple[str, float], ...]
    opposite: tuple[tuple[str, float], ...]
    sharpness: float
    control: float


@dataclass(frozen=True)
class Reading:
    """What one matrix of a direction reads or writes, by its first singular pair.

    Attributes:
        parameter: the matrix.
        share: of the direction's squared norm.
        rank_one: share of the matrix's own squared norm in the pair.
        what: ``reads`` the residual of tokens, ``promotes`` tokens, or ``attends``.
        side: of the residual stream; of ``attends`` the queries.
        keys: of ``attends``: the keys to which these queries attend more.
        pairs: of ``attends``: query, key and the product of their scores, where attention rises most.
        head: of ``attends``.
    """

    parameter: str
    share: float
    rank_one: float
    what: str
    side: Side
    keys: Side | None = None
    pairs: tuple[tuple[str, str, float], ...] = ()
    head: int | None = None


@torch.no_grad()
def vocabulary_of(
    reader: Reader,
    parts: Mapping[str, Float[Tensor, "*shape"]],
    token: Callable[[int], str],
    heads: Mapping[str, tuple[int, int]],
    matrices: int = 3,
    tokens: int = 8,
    controls: dict[tuple[str, str, int], float] | None = None,
) -> list[Reading]:
    """Read one direction's largest matrices.

    Args:
        reader: of the model.
        parts: the direction's part in each parameter.
        token: a token's text by its id.
        heads: of the query and key matrices, as ``Target.heads`` has them.
        matrices: how many, those of largest norm first.
        tokens: how many of each.
        controls: how sharp random vectors are by matrix, side and head: what earlier calls computed, and is added to.
    """
    total = float(sum(part.double().square().sum() for part in parts.values()))
    norms = {name: float(part.norm()) for name, part in parts.items() if _leaf(name) in KINDS}
    largest = sorted(norms, key=lambda name: -norms[name])[:matrices]
    controls = {} if controls is None else controls
    return [
        _reading(reader, name, parts[name], total, token, heads, tokens, controls)
        for name in largest
        if norms[name] > 0
    ]


def _reading(
    reader: Reader,
    name: str,
    part: Tensor,
    total: float,
    token: Callable[[int], str],
    heads: Mapping[str, tuple[int, int]],
    count: int,
    controls: dict[tuple[str, str, int], float],
) -> Reading:
    matrix = reader.oriented(name, part.double().cpu())
    write, size, read = leading_pair(matrix)
    norm = float(matrix.square().sum())
    kind = KINDS[_leaf(name)]

    def side(
        scores: Callable[[Tensor], Tensor], vector: Tensor, sign: float, what: str, head: int = -1
    ) -> tuple[Side, Tensor]:
        z = _standardized(scores(vector)) * sign
        place = (name, what, head)
        if place not in controls:
            drawn = torch.randn(CONTROLS, len(vector), generator=torch.Generator().manual_seed(0), dtype=vector.dtype)
            sharp = torch.stack([_standardized(scores(each)).abs().max() for each in drawn])
            controls[place] = float(sharp.mean())
        return _side(z, controls[place], token, count), z

    if kind == "promotes":
        shown, _ = side(reader.written, write, _sign(reader.written(write)), kind)
        return Reading(name, norm / total, size**2 / norm, kind, shown)
    sign = _sign(reader.read(name, read))
    own, z = side(lambda vector: reader.read(name, vector), read, sign, "reads")
    if kind == "reads":
        return Reading(name, norm / total, size**2 / norm, kind, own)
    by_head = write.unflatten(0, (heads[name][0], -1))
    head = int(by_head.square().sum(1).argmax())
    other, other_z = side(lambda vector: reader.partner(name, vector, head), by_head[head], sign, kind, head)
    is_query = name.endswith("W_Q")
    queries, keys = (own, other) if is_query else (other, own)
    pairs = _pairs(*((z, other_z) if is_query else (other_z, z)), token, count)
    return Reading(name, norm / total, size**2 / norm, kind, queries, keys, pairs, head)


def leading_pair(matrix: Float[Tensor, "out in"]) -> tuple[Float[Tensor, " out"], float, Float[Tensor, " in"]]:
    """Left vector, singular value and right vector of the first singular pair."""
    from scipy.sparse.linalg import svds

    if min(matrix.shape) < 2:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, 0], float(s[0]), vh[0]
    left, size, right = svds(matrix.numpy(), k=1, v0=torch.ones(min(matrix.shape), dtype=matrix.dtype).numpy())
    return torch.from_numpy(left[:, 0].copy()), float(size[0]), torch.from_numpy(right[0].copy())


def to_json(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """Readings in primitives."""
    return [asdict(reading) for reading in readings]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _standardized(scores: Tensor) -> Float[Tensor, " vocab"]:
    scores = scores.double().cpu()
    return (scores - scores.mean()) / scores.std().clamp_min(torch.finfo(torch.float64).tiny)


def _sign(scores: Tensor) -> float:
    """A singular pair has no sign of its own: the sharper end is called positive."""
    z = _standardized(scores)
    return 1.0 if float(z.max()) >= -float(z.min()) else -1.0


def _side(z: Tensor, control: float, token: Callable[[int], str], count: int) -> Side:
    count = min(count, len(z))
    ends = [z.topk(count, largest=largest) for largest in (True, False)]
    high, low = (
        tuple((token(index), value) for value, index in zip(end.values.tolist(), end.indices.tolist(), strict=True))
        for end in ends
    )
    return Side(high, low, float(z.abs().max()), control)


def _pairs(
    queries: Tensor, keys: Tensor, token: Callable[[int], str], count: int
) -> tuple[tuple[str, str, float], ...]:
    """The greatest products: of two high scores or of two low ones."""
    count = min(count, len(queries))
    q = torch.cat([queries.topk(count, largest=largest).indices for largest in (True, False)])
    k = torch.cat([keys.topk(count, largest=largest).indices for largest in (True, False)])
    best = (queries[q][:, None] * keys[k]).flatten().topk(count)
    places = best.indices.tolist()
    return tuple(
        (token(int(q[place // len(k)])), token(int(k[place % len(k)])), value)
        for place, value in zip(places, best.values.tolist(), strict=True)
    )
