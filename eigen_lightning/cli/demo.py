"""The demonstration: XOR, TMS and a small transformer from nothing to a table, offline, in minutes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from eigen_lightning.analysis.planted import REACHED_ABOVE
from eigen_lightning.api.configuration import shipped_folder
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder


class Part(NamedTuple):
    """A network of the demonstration: its configuration, what is said of it, arguments of its own."""

    name: str
    title: str
    arguments: tuple[str, ...] = ()


PARTS = (
    Part("xor", "XOR: two GELU nodes, three directions"),
    Part("tms", "Toy model of superposition: five features in two hidden dimensions, five directions"),
    Part(
        "grammar",
        "A one-layer transformer on the text of a small grammar: sixteen directions in its MLP",
        ("--model.n_directions=16", "--model.start.samples=96", "--data.n_sequences=256", "--trainer.max_epochs=1"),
    ),
)


def demo(run_dir: str = "runs/demo", configs: str | None = None, overwrite: bool = True) -> None:
    """Train XOR and TMS networks and a small transformer, decompose them, and show what each direction responds to.

    Args:
        run_dir: folder of the three runs, ``xor``, ``tms`` and ``grammar``.
        configs: folder that holds ``xor.yaml``, ``tms.yaml`` and ``grammar.yaml``; the shipped ones by default.
        overwrite: replace an earlier demonstration's results.

    Raises:
        UserError: where a configuration is missing.
    """
    from eigen_lightning.cli.main import run

    folder = Path(configs) if configs else shipped_folder()
    console = Console()
    console.print(
        "Three networks are trained here and decomposed: XOR and TMS (seconds), a small transformer (two minutes).\n"
        "Each ends in its scorecard, with controls beside it, and in the samples on which each direction acts most."
    )
    for part in PARTS:
        config = folder / f"{part.name}.yaml"
        if not config.is_file():
            raise UserError(
                f"expected the demonstration's configuration at {config}, found none; name its folder: --configs"
            )
        console.print(Rule(part.title))
        run([*_arguments(config, Path(run_dir) / part.name, overwrite), *part.arguments])
    _show_regularities(console, RunFolder(Path(run_dir) / "grammar"))
    console.print(Rule("Where to look next"))
    console.print(
        f"Open the folder [bold]{run_dir}[/bold]: in each run, report.html shows every direction, scorecard.json says "
        f"how good they are.\nWatch the curves: tensorboard --logdir {run_dir}"
    )


def _show_regularities(console: Console, run: RunFolder) -> None:
    """Which of the grammar's planted regularities directions have found, on text they were not learned on."""
    card = run.read_json(run.scorecard)
    reached = [each for each in card["planted"] if each["share"] >= REACHED_ABOVE]
    table = Table("direction", "planted regularity", "share of its curvature, unseen text", "needs context")
    for each in sorted(reached, key=lambda each: -each["share"]):
        needs = "yes" if each["needs_context"] else ""
        table.add_row(str(each["direction"]), each["state"], f"{each['share']:.2f}", needs)
    console.print(Rule("Planted regularities found"))
    console.print(table)
    others = {name: card[name]["context_states"] for name in ("pca", "random", "random_network") if name in card}
    told = ", ".join(f"{name.replace('_', ' ').replace('pca', 'PCA')} {count:.0f}" for name, count in others.items())
    console.print(f"Regularities that need context: learned {card['learned']['context_states']:.0f}, {told}.")


def _arguments(config: Path, run_dir: Path, overwrite: bool) -> Sequence[str]:
    return ["fit", "--config", str(config), "--run_dir", str(run_dir), "--overwrite", str(overwrite).lower()]
