"""U split over processes by rows gives what one process gives, in less memory on each."""

import pytest

from tests.kinds import Kinds
from tests.resume import runs

BOUND = 1e-6


def largest(kinds: Kinds, kind: str, ranks: int):
    options = {"batch_size": 256, "samples_per_epoch": 2560} if kind == "tms" else {}
    return runs.largest_difference(
        kinds.finished(kind, **options), kinds.finished(kind, ranks, "row_parallel", **options)
    )


@pytest.mark.parametrize("kind", ["xor", "tms", "file"])
def test_two_processes_with_a_share_of_the_rows_give_what_one_gives(kinds: Kinds, kind: str) -> None:
    found = largest(kinds, kind, 2)
    print(found)
    assert max(found.values()) <= BOUND
