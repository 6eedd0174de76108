"""The kinds of runs that are decomposed by the command."""

from tests.kinds import kinds, start

__all__ = ["kinds", "start"]
