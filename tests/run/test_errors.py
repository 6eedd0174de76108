"""What led to an error: the disk, or something else."""

import errno

import pytest

from eigen_lightning.run.errors import UserError, disk_error


def raised(inner: BaseException, outer: BaseException | None) -> BaseException:
    """The error that is left where one came up while another was handled."""
    if outer is None:
        return inner
    outer.__context__ = inner
    return outer


@pytest.mark.parametrize(
    ("inner", "outer", "of_disk"),
    [
        (OSError(errno.EIO, "worn"), None, True),
        (PermissionError(errno.EACCES, "refused"), None, True),
        (OSError(errno.ESTALE, "stale"), None, True),
        (OSError(errno.ENOSPC, "full"), RuntimeError("while closing"), True),
        (FileNotFoundError(errno.ENOENT, "none"), KeyError("a mistake while handling it"), False),
        (OSError(errno.ENOSPC, "full"), UserError("told"), False),
        (BrokenPipeError(errno.EPIPE, "pipe"), None, False),
        (ConnectionRefusedError(errno.ECONNREFUSED, "nobody"), None, False),
        (OSError("no number"), None, False),
    ],
    ids=str,
)
def test_errors_of_disks_are_known(inner: BaseException, outer: BaseException | None, of_disk: bool) -> None:
    assert disk_error(raised(inner, outer)) is (inner if of_disk else None)
