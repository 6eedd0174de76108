"""Checkpoints on disk: whole or not there at all, primitives and tensors only."""

import io
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import write_atomically

KEYS = ("state_dict", "loops", "decomposition")
"""What tells a checkpoint of this package from another's."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file, flushes it to disk and renames it; reads nothing that could run code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint``.

        Raises:
            UserError: where the disk is full, say; what was there before is intact.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        try:
            write_atomically(path, content.getbuffer())
        except OSError as error:
            kept = f"the one written before, {path}, is intact" if path.exists() else "none was written before"
            raise UserError(
                f"expected to write a checkpoint of {content.tell()} bytes to {path}, got: {error.strerror}; {kept}: "
                "make room, then go on with --ckpt_path last"
            ) from error

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, always with ``weights_only``.

        Raises:
            UserError: see :func:`read_checkpoint`; the message names the newest checkpoint beside it that is good.
        """
        path = Path(path)
        try:
            return read_checkpoint(path)
        except UserError as error:
            good = last_good(path.parent, but=path)
            mend = f"go on from the last good one: --ckpt_path {good}" if good else "there is no other beside it"
            raise UserError(f"{error}; {mend}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU.

    Raises:
        UserError: where the file is not there, is truncated or damaged, holds anything but primitives and tensors, or
            is of another program.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"expected a checkpoint in {path}, got: {error.strerror}") from error
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
    # What zipfile raises depends on where the file was cut off.
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, zlib.error) as error:
        raise UserError(f"expected a checkpoint in {path}, got a truncated file or one of another kind") from error
    if damaged is not None:
        raise UserError(f"expected a whole checkpoint in {path}, got one with a damaged part ({damaged})")
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise UserError(f"expected a checkpoint of primitives and tensors in {path}, got other contents") from error
    missing = [key for key in KEYS if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise UserError(
            f"expected a checkpoint of eigen-lightning in {path}, got one without {', '.join(missing)}, "
            "which another program wrote"
        )
    return checkpoint


def last_good(folder: Path, but: Path | None = None) -> Path | None:
    """The newest readable checkpoint of a folder.

    Args:
        folder: where to look.
        but: one to leave out.
    """
    found = [path for path in folder.glob("*.ckpt") if path != but]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            read_checkpoint(path)
        except UserError:
            continue
        return path
    return None
