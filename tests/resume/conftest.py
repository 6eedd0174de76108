"""The kinds of runs that are stopped and go on."""

from tests.kinds import kinds, start

__all__ = ["kinds", "start"]
