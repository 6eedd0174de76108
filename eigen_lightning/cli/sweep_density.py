"""``eigen-lightning sweep-density``: recovery against how many features a sample holds."""

from collections.abc import Sequence
from pathlib import Path

from eigen_lightning.cli.sweep_lambda import sweep
from eigen_lightning.run.errors import UserError


def sweep_density(
    config: str,
    probabilities: Sequence[float] = (0.01, 0.05, 0.1, 0.2, 0.5),
    seeds: int = 3,
    jobs: int = 1,
    run_dir: str = "runs/sweep_density",
    figure: str = "mcc",
    overrides: Sequence[str] = (),
) -> None:
    """Fit one TMS configuration on samples of growing density and plot how well the features are recovered.

    All runs of a seed share one target, trained as configured: only the samples that it is decomposed on change.
    Finished runs are kept. Writes sweep_density.json and sweep_density.png.

    Args:
        config: the configuration.
        probabilities: how often each feature is present.
        seeds: seeds, from 0 on, of each.
        jobs: runs at a time, each in one thread.
        run_dir: where runs and results go.
        figure: which figure of the scorecard is plotted.
        overrides: further arguments of fit.

    Raises:
        UserError: where a value is out of range.
    """
    for probability in probabilities:
        if not 0 < probability <= 1:
            raise UserError(f"expected probabilities in (0, 1], got {probability}")
    settings = [
        (Path(config).stem, p, ("--config", config, "--data.probability", str(p), *overrides)) for p in probabilities
    ]
    sweep(Path(run_dir), "sweep_density", "p", settings, seeds, jobs, figure)
