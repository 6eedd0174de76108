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
    known = list(known)
    # The same name in other letter case comes first, however alike others look.
    close = [other for other in known if other.lower() == name.lower()]
    close += [other for other in difflib.get_close_matches(name, known, n=count, cutoff=0.5) if other not in close]
    close = close[:count]
    return f"; did you mean {', '.join(close)}?" if close else ""
