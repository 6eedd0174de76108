"""What would stop a run, before it is started: each check with its remedy, and what the run will take."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from eigen_lightning.api.configured import EigenLightningCLI, run_configured
from eigen_lightning.curvature.memory import free_bytes
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.learning.expected import expected
from eigen_lightning.run.folder import RunFolder

STAGES = (
    "the configuration is understood",
    "data and target can be had",
    "the target takes the data",
    "curvature agrees with the divergence",
    "time and memory",
)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: ``ok``, ``warning`` where a run would go on, ``failed`` where it would not, ``not reached``.
        message: what was found; of a failure what was expected, and how to mend it.
    """

    name: str
    status: Literal["ok", "warning", "failed", "not reached"]
    message: str


class Examined(Exception):  # noqa: N818 - no error, the end of an examination
    """Ends a run once everything was looked at."""


class Examination(Callback):
    """Notes what a run has come through, measures it, and ends it before anything is learned."""

    def __init__(self) -> None:
        self.passed: list[Check] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.passed.append(Check(STAGES[0], "ok", "all classes, keys and values"))
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        sizes = {"train": len(data.train_set), **{name: len(each) for name, each in data.evaluation_sets.items()}}
        described = ", ".join(f"{size} {name}" for name, size in sizes.items())
        self.passed.append(Check(STAGES[1], "ok", f"{type(data).__name__}: {described} samples"))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SparseEigendecomposition)
        space = pl_module.target.space
        names = ", ".join(space.names[:4]) + (f" and {len(space.names) - 4} more" if len(space.names) > 4 else "")
        self.passed.append(Check(STAGES[2], "ok", f"{space.size} parameters in {len(space.names)}: {names}"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SparseEigendecomposition)
        compared = "compared with finite differences" if pl_module.target.check else "of a tested kind, not compared"
        self.passed.append(Check(STAGES[3], "ok", compared))
        estimate, free = expected(pl_module), free_bytes(pl_module.device)
        gib = 2**30
        memory = (
            f"about {(estimate.bytes_now + estimate.bytes_more) / gib:.2g} GiB with the start's rows, "
            f"{free / gib:.3g} GiB free; at most {estimate.most_directions} directions fit"
        )
        fits = estimate.bytes_more < free
        remedy = "" if fits else ": lower n_directions or start.surplus, or hold directions as factors"
        self.passed.append(Check(STAGES[4], "ok" if fits else "failed", f"{estimate}; {memory}{remedy}"))
        raise Examined


def doctor(args: Sequence[str], failed: Callable[[BaseException], str | None]) -> list[Check]:
    """Check a run without starting it; nothing is written where it would go.

    Args:
        args: as of ``fit``.
        failed: what a person could mend in an error; None where it is a fault of the package.
    """
    checks = [folder] if (folder := _folder(args)) else []
    examination = Examination()

    class Examining(EigenLightningCLI):
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            trainer.callbacks.insert(0, examination)  # type: ignore[attr-defined]
            return trainer

    with tempfile.TemporaryDirectory() as elsewhere:
        rest = _without_folder(args)
        try:
            run_configured(["fit", *rest, f"--run_dir={Path(elsewhere) / 'run'}", "--quiet=true"], Examining)
        except Examined:
            pass
        except Exception as error:
            message = failed(error)
            if message is None:
                raise
            reached = len(examination.passed)
            examination.passed.append(Check(STAGES[min(reached, len(STAGES) - 1)], "failed", message))
    passed = examination.passed
    return [*checks, *passed, *(Check(name, "not reached", "") for name in STAGES[len(passed) :])]


def _folder(args: Sequence[str]) -> Check | None:
    named = [arg.partition("=")[2] for arg in _joined(args) if arg.startswith("--run_dir=")]
    if not named:
        return None
    if RunFolder(named[-1]).manifest.exists():
        message = f"{named[-1]} holds results: give --overwrite or --ckpt_path last, or another --run_dir"
        return Check("the run's folder", "warning", message)
    return Check("the run's folder", "ok", f"{named[-1]} is free")


def _joined(args: Sequence[str]) -> list[str]:
    """Arguments with their values joined by ``=`` where they stand apart."""
    joined: list[str] = []
    for arg in args:
        if joined and not arg.startswith("-") and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={arg}"
        else:
            joined.append(arg)
    return joined


def _without_folder(args: Sequence[str]) -> list[str]:
    return [arg for arg in _joined(args) if arg.partition("=")[0] not in ("--run_dir", "--overwrite", "--ckpt_path")]
