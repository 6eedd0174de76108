"""Many runs of one configuration: seeds times a grid over any of its keys."""

import hashlib
import itertools
import json
import multiprocessing
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track

from eigen_lightning.api.study_results import Study, outcome, shown
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder, write_atomically
from eigen_lightning.run.lock import RunLock

Vary = dict[str, list[Any]] | list[dict[str, Any]]


def study(
    config: str | Sequence[str],
    seeds: int = 10,
    first_seed: int = 0,
    vary: Vary | None = None,
    jobs: int = 1,
    run_dir: str | None = None,
    targets_of: str | None = None,
    overrides: Sequence[str] = (),
    executor: Literal["local", "slurm"] = "local",
    slurm: dict[str, Any] | None = None,
) -> Study:
    """Fit a configuration for many seeds and settings, and say how often, and how exactly, it recovers the features.

    Each seed trains a new target, draws new samples and starts anew; settings of one seed with the same
    ``model.target`` share its trained target. Called again, or with more seeds or settings, only what is missing is
    run. A script calls it under ``if __name__ == "__main__"``: the processes it starts import the script.

    Args:
        config: a configuration, whose callbacks include Scorecard; or several, of which later ones overlay earlier.
        seeds: how many seeds.
        first_seed: the first of them.
        vary: values by key of the configuration, {"model.interference_weight": [0, 1]}, of which all combinations are
            run; or a list of settings, [{"model.target.features": 12, "model.n_directions": 12}, ...]. The key config
            names overlays.
        jobs: runs at a time, each in one thread.
        run_dir: where the runs, study.json and study.png go; runs/study_<name of the last file>.
        targets_of: the folder of another study, whose trained targets are taken seed by seed.
        overrides: further arguments of fit, such as ["--trainer.max_epochs=1", "--report=true"].
        executor: local starts processes on this machine; slurm submits jobs through submitit and waits for them.
        slurm: submitit's parameters of a job, such as {"slurm_partition": "cpu", "timeout_min": 60}.

    Raises:
        UserError: where a value is out of range, the folder holds runs of another configuration, or no run finished.
    """
    for name, value, least in (("seeds", seeds, 1), ("first_seed", first_seed, 0), ("jobs", jobs, 1)):
        if value < least:
            raise UserError(f"expected {name} of at least {least}, got {value}")
    files = [config] if isinstance(config, str) else list(config)
    for file in files or [""]:
        if not Path(file).is_file():
            raise UserError(f"expected a configuration file, got {file or 'none'}, which does not exist")
    folder = Path(run_dir or f"runs/study_{Path(files[-1]).stem}")
    texts = [Path(file).read_text(encoding="utf-8") for file in files]
    identity = {"config": texts, "overrides": list(overrides), "targets_of": targets_of}
    runs = []
    for point, seed in itertools.product(settings(vary), range(first_seed, first_seed + seeds)):
        arguments = [f"--config={file}" for file in (*files, point.get("config")) if file is not None]
        # The report takes longer than many a run; overrides may ask for it.
        arguments += ["--report=false", *overrides, f"--seed_everything={seed}"]
        arguments += [f"--{key}={shown(value)}" for key, value in point.items() if key != "config"]
        target = {key: value for key, value in point.items() if key in ("config", "model") or "model.target" in key}
        shared = Path(targets_of or folder, "targets", label(target), f"seed_{seed:04d}.safetensors")
        if targets_of is not None and not shared.is_file():
            raise UserError(f"expected a trained target at {shared}, found none: run that study with seed {seed} first")
        runs.append(StudyRun(point, seed, folder / label(point) / f"seed_{seed:04d}", tuple(arguments), shared))
    lock = RunLock(folder)
    lock.acquire()
    try:
        _claim(folder, identity)
        failures = _run_all(runs, jobs, folder if executor == "slurm" else None, slurm or {})
    finally:
        lock.release()
    if len(failures) == len(runs):
        raise UserError(f"expected a run to finish, all {len(runs)} failed, the first with: {failures[runs[0].folder]}")
    rows = [outcome(run.point, run.seed, RunFolder(run.folder), failures.get(run.folder)) for run in runs]
    made = Study(str(folder), tuple(files), tuple(rows))
    write_atomically(folder / "study.json", (json.dumps(made.to_json(), indent=2) + "\n").encode())
    if made.axis is not None and find_spec("matplotlib") is not None:
        made.plot(folder / "study.png")
    return made


def settings(vary: Vary | None) -> list[dict[str, Any]]:
    """The settings to run, in order and each once: keys of the configuration and their values.

    Raises:
        UserError: where there is none, values are no list, or a key is none that can vary.
    """
    points = [{}] if vary is None else vary
    if isinstance(points, dict):
        if not all(isinstance(values, list | tuple) for values in points.values()):
            raise UserError(f'expected lists of values in vary, such as {{"model.exponent": [2, 3]}}, got {vary}')
        points = [dict(zip(points, values, strict=True)) for values in itertools.product(*points.values())]
    if not points:
        raise UserError(f"expected at least one setting in vary, got {vary}: leave it out to vary the seed alone")
    for key in {"seed_everything", "run_dir"} & {key for point in points for key in point}:
        raise UserError(f"expected keys that may vary, got {key}: use seeds and first_seed")
    return list({label(point): point for point in points}.values())


def label(point: Mapping[str, Any]) -> str:
    """A folder's name for a setting, whatever else is run."""
    text = ",".join(f"{key}={shown(value)}" for key, value in point.items()) or "as_configured"
    name = re.sub(r"[^\w.,=+-]", "_", text)
    exact = name == text and len(name) <= 120
    return name if exact else f"{name[:110]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _claim(folder: Path, identity: Mapping[str, Any]) -> None:
    path = folder / "study_of.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else identity
    differing = [name for name in identity if found.get(name) != identity[name]]
    if differing and any(folder.glob("*/seed_*/manifest.json")):
        raise UserError(
            f"expected a folder for runs of this study, got {folder}, whose runs differ in {', '.join(differing)}: "
            "choose another --run_dir, or remove it"
        )
    if differing:
        shutil.rmtree(folder / "targets", ignore_errors=True)
    write_atomically(path, (json.dumps(identity, indent=2) + "\n").encode())


@dataclass(frozen=True)
class StudyRun:
    """One run of ``fit`` in its folder; the first of those with one seed and target writes ``shared_target``."""

    point: dict[str, Any]
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    shared_target: Path

    @property
    def finished(self) -> bool:
        """Whether it is done and judged."""
        run = RunFolder(self.folder)
        return run.manifest.exists() and run.scorecard.exists() and run.read_json(run.manifest)["status"] == "complete"


def _run_all(runs: Sequence[StudyRun], jobs: int, submit_in: Path | None, slurm: dict[str, Any]) -> dict[Path, str]:
    """Do what is missing, a run after the one whose target it shares; what failed, and why."""
    todo = [run for run in runs if not run.finished]
    training = {run.shared_target: run.folder for run in reversed(todo) if not run.shared_target.exists()}
    first = [run for run in todo if run.folder in training.values()]
    then = [run for run in todo if run.folder not in training.values()]
    results = (
        result
        for wave in (first, then)
        if wave
        for result in (_processes(wave, jobs) if submit_in is None else _submitted(wave, jobs, submit_in, slurm))
    )
    console = Console(stderr=True)
    watched = track(results, "Study", total=len(todo), console=console, disable=not (todo and console.is_terminal))
    failures = dict(zip([run.folder for run in (*first, *then)], watched, strict=True))
    return {run.folder: failures[run.folder] or "stopped" for run in todo if not run.finished}


def _processes(runs: Sequence[StudyRun], jobs: int) -> Iterator[str | None]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with_parent) as pool:
        yield from pool.map(run_one, runs)


def end_with_parent() -> None:
    """A study that is killed cannot tell its workers, which would go on for hours."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _submitted(
    runs: Sequence[StudyRun], jobs: int, folder: Path, parameters: dict[str, Any], cluster: str = "slurm"
) -> Iterator[str | None]:
    try:
        import submitit

        executor = submitit.AutoExecutor(folder / "jobs", cluster=cluster)
        executor.update_parameters(**{"cpus_per_task": 1, "slurm_array_parallelism": jobs, **parameters})
    # Not installed; no cluster here; a parameter that it does not know.
    except (ImportError, RuntimeError, NameError) as error:
        raise UserError(
            f"expected submitit (pip install 'eigen-lightning[slurm]'), a machine with slurm and parameters of a job, "
            f"got: {error}; leave executor out to run on this machine"
        ) from error
    for job in executor.map_array(run_one, runs):
        yield job.result()


def run_one(run: StudyRun) -> str | None:
    """Do one run in this process; returns what a person could mend where that ended it."""
    import torch

    from eigen_lightning.api.configured import run_configured
    from eigen_lightning.run.console import set_up_console

    set_up_console(debug=False, quiet=True)
    torch.set_num_threads(1)
    shutil.rmtree(run.folder, ignore_errors=True)
    results = RunFolder(run.folder)
    given = run.shared_target.exists()
    if given:
        write_atomically(results.target, run.shared_target.read_bytes())
    arguments = ["fit", *run.arguments, f"--run_dir={run.folder}", "--quiet=true"]
    try:
        run_configured([*arguments, "--trainer.logger=false", "--trainer.enable_checkpointing=false"])
        if not results.scorecard.exists():
            raise UserError("expected a scorecard, found none: add Scorecard to trainer.callbacks")
    except UserError as error:
        return str(error)
    finally:
        if results.target.exists() and not given:
            write_atomically(run.shared_target, results.target.read_bytes())
    return None
