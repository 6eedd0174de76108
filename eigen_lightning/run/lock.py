"""One run at a time in a run folder."""

import fcntl
import os
import socket
from io import TextIOWrapper
from pathlib import Path

from eigen_lightning.run.errors import UserError

NAME = ".lock"


class RunLock:
    """Holds a run folder for this process.

    The lock is the kernel's: it ends with the process, however that ends, and processes that this one starts do not
    inherit it, so that a loader worker that outlives a killed run does not keep its folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: TextIOWrapper | None = None

    def acquire(self) -> None:
        """Take the folder, which is made where it does not exist.

        Raises:
            UserError: where another process has it, or nothing can be written there.
        """
        if self._file is not None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / NAME).open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"expected a run folder to write to, got {self.folder}: {error.strerror}; choose another --run_dir"
            ) from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise UserError(
                f"expected a run folder that no other run is using, got {self.folder}, in use by {holder}; wait until "
                "that ends, or choose another --run_dir"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Let others have the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None
