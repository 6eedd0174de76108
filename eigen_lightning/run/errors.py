"""Errors that a person can mend."""

import difflib
import errno
import socket
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """Wrong input. The message names what was expected, what came and how to mend it.

    The command line shows it as one line on stderr and exits with code 2.
    """


FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What only a disk answers that is full, worn or not to be written to."""

ELSEWHERE = (errno.EPIPE, errno.ECHILD, errno.ESRCH, errno.EINTR, errno.EAGAIN, errno.EADDRINUSE, errno.EADDRNOTAVAIL)
"""What pipes, processes and addresses answer, as opposed to file systems."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, the last first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def disk_error(error: BaseException) -> OSError | None:
    """The disk's error in what led to another; None where there is none, or a person has been told of it.

    Of what came before the error itself, only what nobody could have dealt with counts.
    """
    for each in causes(error):
        if isinstance(each, UserError):
            return None
        if isinstance(each, OSError) and (each.errno in FAILS or (each is error and _is_of_files(each))):
            return each
    return None


def _is_of_files(error: OSError) -> bool:
    other = isinstance(error, ConnectionError | socket.gaierror | socket.herror)
    return not other and error.errno is not None and error.errno not in ELSEWHERE


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
