"""The demonstration: XOR and TMS from nothing to a table, offline, in minutes."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

from eigen_lightning.run.errors import UserError

SYSTEMS = {
    "xor": "XOR: two GELU nodes, three directions",
    "tms": "Toy model of superposition: five features in two hidden dimensions, five directions",
}


def demo(run_dir: str = "runs/demo", configs: str | None = None, overwrite: bool = True) -> None:
    """Train XOR and TMS networks, decompose both, and show what each direction responds to.

    Args:
        run_dir: folder of the two runs, ``xor`` and ``tms``.
        configs: folder that holds ``xor.yaml`` and ``tms.yaml``; the repository's ``configs`` by default.
        overwrite: replace an earlier demonstration's results.

    Raises:
        UserError: where a configuration is missing.
    """
    from eigen_lightning.cli.main import run

    folder = Path(configs) if configs else Path(str(files("eigen_lightning"))).parent / "configs"
    console = Console()
    for name, title in SYSTEMS.items():
        config = folder / f"{name}.yaml"
        if not config.is_file():
            raise UserError(
                f"expected the demonstration's configuration at {config}, found none; name its folder: --configs"
            )
        console.print(Rule(title))
        run(_arguments(config, Path(run_dir) / name, overwrite))
    console.print(Rule("Where to look next"))
    console.print(
        f"Open the folder [bold]{run_dir}[/bold]: in each run, report.html shows every direction, scorecard.json says "
        f"how good they are.\nWatch the curves: tensorboard --logdir {run_dir}"
    )


def _arguments(config: Path, run_dir: Path, overwrite: bool) -> Sequence[str]:
    return ["fit", "--config", str(config), "--run_dir", str(run_dir), "--overwrite", str(overwrite).lower()]
