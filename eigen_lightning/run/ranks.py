"""Which of several processes this is, before there is a Trainer to ask."""

from lightning.pytorch.utilities.rank_zero import rank_zero_only


def this_rank() -> int:
    """The rank that Lightning found in the environment; 0 in a single process."""
    return int(getattr(rank_zero_only, "rank", 0))
