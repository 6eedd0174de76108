"""Errors that a person can mend."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Wrong input. The message names what was expected, what came and how to mend it.

    The command line shows it as one line on stderr and exits with code 2.
    """


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Suggest known names close to a mistyped one.

    Args:
        name: what the person wrote.
        known: the names that exist.
        count: how many to suggest at most.

    Returns:
        ``"; did you mean a, b?"``, or an empty string where nothing is close.
    """
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""
