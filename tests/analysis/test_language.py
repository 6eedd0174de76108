"""Purity counted by hand."""

from typing import Any

import pytest

from eigen_lightning.analysis.language import purity, reading


def example(token: int, before: str, sample: int = 0, position: int = 0) -> dict[str, Any]:
    return {"token_id": token, "previous_token": before, "sample_id": sample, "position": position}


def test_purity_is_the_share_of_the_commonest() -> None:
    assert purity([1, 2, 1, 1]) == 0.75
    assert purity([]) == 0


def test_reading_averages_over_directions_and_counts_leaders() -> None:
    top = [
        [example(5, "a", 1, 2), example(5, "b"), example(6, "a"), example(5, "a")],
        [example(7, "c", 1, 2), example(8, "d"), example(9, "e"), example(10, "f")],
        [example(7, "x", 3, 4)] * 4,
    ]
    assert reading(top) == {
        "token_purity": pytest.approx((0.75 + 0.25 + 1) / 3),
        "previous_token_purity": pytest.approx((0.75 + 0.25 + 1) / 3),
        "distinct_leading_tokens": 2,
        "distinct_leading_contexts": 2,
    }
