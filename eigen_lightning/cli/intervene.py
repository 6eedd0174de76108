"""``eigen-lightning intervene``: the causal checks of a finished run."""

import torch
from rich.console import Console
from rich.table import Table

from eigen_lightning.analysis.causal import CausalSettings, causal_checks
from eigen_lightning.api.load import load_with_samples
from eigen_lightning.report import write_report
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder


def intervene(
    run_dir: str,
    n_examples: int = 20,
    steps: int = 7,
    controls: int | None = None,
    matched: bool = True,
    most_directions: int = 32,
    accelerator: str = "auto",
    quiet: bool = False,
) -> None:
    """Move a finished run's weights along each direction, and measure what that does against random directions.

    Args:
        run_dir: the run's folder.
        n_examples: top samples a direction.
        steps: steps on each side.
        controls: random directions a direction; null takes 16 for few parameters, else 2.
        matched: draw random samples that are as sensitive as the top ones; false takes all held-out ones alike.
        most_directions: directions that are checked, evenly spaced among all of them where there are more.
        accelerator: the device: "cpu", "gpu" or torch's name of one; "auto" takes an accelerator where there is one.
        quiet: print nothing.

    Raises:
        UserError: where the folder holds no finished run.
    """
    run, settings = RunFolder(run_dir), CausalSettings(n_examples, steps, controls, matched, most_directions)
    loaded, data = load_with_samples(run_dir, device_named(accelerator))
    if not run.top_examples.exists():
        raise UserError(f"expected {run.top_examples}, which does not exist: fit with the TopExamples callback")
    samples = data.evaluation_sets["heldout"]
    linearizer = loaded.linearizer(samples.batch(0, torch.arange(min(data.batch_size, len(samples)))).inputs)
    seed = loaded.manifest["seed"]
    found = causal_checks(linearizer, samples, loaded.rows, run.read_top_examples(), seed, settings).to_json()
    run.write_json(run.interventions, found)
    write_report(run)
    if quiet:
        return
    console = Console()
    table = Table("direction", title="Moving the weights along each direction")
    for name in ("selectivity", "random direction", "quadratic up to δ", "sign asymmetry"):
        table.add_column(name, justify="right")
    for line in found["directions"]:
        if not line["deltas"]:
            table.add_row(str(line["direction"]), "dead", "", "", "")
            continue
        table.add_row(
            str(line["direction"]),
            shown(line["selectivity"]),
            shown(line["control_selectivity"]),
            "all" if line["departs_at"] is None else f"{line['departs_at']:.3g}",
            f"{line['reference_asymmetry']:+.2f}",
        )
    console.print(table)
    console.print(
        f"Median selectivity {shown(found['median_selectivity'])}, "
        f"of random directions {shown(found['median_control_selectivity'])}. Report: {run.report}",
        soft_wrap=True,
    )


def shown(ratio: float | None) -> str:
    """A ratio with three digits; infinite where nothing moved on the random samples."""
    return "∞" if ratio is None else f"{ratio:.3g}"


def device_named(accelerator: str) -> torch.device:
    """The device that a command's ``accelerator`` names.

    Raises:
        UserError: where torch knows none of that name.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if accelerator in ("auto", "gpu"):
        if found is None and accelerator == "gpu":
            raise UserError("expected an accelerator, found none here: use --accelerator=cpu")
        return found or torch.device("cpu")
    try:
        return torch.device(accelerator)
    except RuntimeError as error:
        raise UserError(f"expected accelerator auto, cpu, gpu or a device's name, got {accelerator!r}") from error
