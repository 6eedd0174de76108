"""What the command line lets through to the terminal."""

import logging
import warnings

from rich.console import Console
from rich.logging import RichHandler


def set_up_console(debug: bool, quiet: bool = False) -> None:
    """Show the package's own messages, and of the libraries' only warnings that a person can act on.

    Args:
        debug: let everything through.
        quiet: only warnings and errors, and no progress bars.
    """
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=debug, markup=False)
    logger = logging.getLogger("eigen_lightning")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    if not debug:
        quiet_libraries()


def quiet_libraries() -> None:
    """Let through only warnings of Lightning's that a person can act on."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # What these ask for is decided on purpose here: toy samples are made faster than workers pass them on, epochs
    # may be short, and the run folder exists before its first checkpoint.
    for message in (
        ".*does not have many workers.*",
        ".*number of training batches.*is smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*LightningCLI's args parameter is intended.*",
        ".*isinstance.treespec, LeafSpec.. is deprecated.*",
        ".*You called `self.log.* in your `on_validation_epoch_end`.*sync_dist.*",
        ".*It is recommended to use `self.log.*sync_dist=True.*",
        ".*torch.distributed.nn.functional.all_gather is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message)


def is_quiet() -> bool:
    """Whether a person asked for silence: no progress bar then."""
    return logging.getLogger("eigen_lightning").level >= logging.WARNING
