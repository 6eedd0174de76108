"""TensorBoard's event files as one series over resumes: cut back to where a checkpoint was written."""

from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

PATTERN = "events.out.tfevents.*"


def position(logger: TensorBoardLogger) -> dict[str, int]:
    """Name and size in bytes of each event file, with all that was logged so far in them."""
    logger.experiment.flush()
    return {path.name: path.stat().st_size for path in sorted(Path(logger.log_dir).glob(PATTERN))}


def rewind(logger: TensorBoardLogger, to: dict[str, int]) -> None:
    """Drop what was logged after :func:`position` gave ``to``; the logger goes on in a file of its own.

    Event files only grow, so that what a checkpoint knows of is always their beginning.
    """
    # A closed writer opens a new file at the next event.
    logger.experiment.close()
    for path in Path(logger.log_dir).glob(PATTERN):
        if path.name not in to:
            path.unlink()
        elif path.stat().st_size > to[path.name]:
            with path.open("r+b") as file:
                file.truncate(to[path.name])
