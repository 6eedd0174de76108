"""How well directions read in a language model: whether each one's top examples share a token."""

from collections import Counter
from collections.abc import Sequence
from typing import Any


def purity(tokens: Sequence[Any]) -> float:
    """The share of the commonest value; 0 where there are none."""
    return Counter(tokens).most_common(1)[0][1] / len(tokens) if tokens else 0.0


def reading(top: Sequence[Sequence[dict[str, Any]]]) -> dict[str, float]:
    """How the top examples of some directions read.

    Args:
        top: for each direction its top examples, largest first, each with ``token_id``, ``previous_token``,
            ``sample_id`` and ``position``.

    Returns:
        ``token_purity`` and ``previous_token_purity``, the mean over directions of the share of the top examples that
        have the commonest activating token, and the commonest token before it; ``distinct_leading_tokens`` and
        ``distinct_leading_contexts``, how many different tokens, and tokens in their place, lead the directions.
    """
    leaders = [examples[0] for examples in top if examples]
    return {
        "token_purity": _mean([purity([example["token_id"] for example in examples]) for examples in top]),
        "previous_token_purity": _mean(
            [purity([example["previous_token"] for example in examples]) for examples in top]
        ),
        "distinct_leading_tokens": len({leader["token_id"] for leader in leaders}),
        "distinct_leading_contexts": len({(leader["sample_id"], leader["position"]) for leader in leaders}),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
