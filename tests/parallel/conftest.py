"""The kinds of runs that are split over processes."""

from tests.kinds import kinds, start

__all__ = ["kinds", "start"]
