"""One run at a time in a run folder."""

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from eigen_lightning.run.errors import UserError

NAME = ".lock"


class RunLock:
    """Holds a run folder for this process.

    The lock is the kernel's: it ends with the process, however that ends, and processes that this one starts do not
    inherit it, so that a loader worker that outlives a killed run does not keep its folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / NAME, timeout=0, thread_local=False)
        self._made: list[Path] = []

    def acquire(self) -> None:
        """Take the folder, which is made where it does not exist.

        Raises:
            UserError: where another process has it, or nothing can be written there.
        """
        if self._lock.is_locked:
            return
        path = self.folder / NAME
        try:
            self._made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        except Timeout as error:
            holder = path.read_text(encoding="utf-8").strip() or "another process"
            raise UserError(
                f"expected a run folder that no other run is using, got {self.folder}, in use by {holder}; wait until "
                "that ends, or choose another --run_dir"
            ) from error
        except OSError as error:
            raise UserError(
                f"expected a run folder to write to, got {self.folder}: {error.strerror}; choose another --run_dir"
            ) from error

    def release(self) -> None:
        """Let others have the folder; a folder that was made for the lock and holds nothing else is removed."""
        if self._lock.is_locked and self._made and [path.name for path in self.folder.iterdir()] == [NAME]:
            # Whoever has opened the file meanwhile finds that it is no longer there.
            (self.folder / NAME).unlink()
            for folder in self._made:
                if any(folder.iterdir()):
                    break
                folder.rmdir()
        self._lock.release()
