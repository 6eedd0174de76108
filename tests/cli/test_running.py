"""What a terminal, an environment, a scheduler and a file system do to a run: nothing, or one line with the remedy."""

import errno
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from eigen_lightning.cli.main import main
from eigen_lightning.run import folder as run_folder
from eigen_lightning.run.checkpoint_io import read_checkpoint
from eigen_lightning.run.folder import RunFolder
from tests.processes import CommandProcess

# Real processes and many parsers: minutes on two cores, and rarely broken.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "tms.yaml"
QUICK = [
    "--model.target.features=3",
    "--model.target.hidden=2",
    "--data.features=3",
    "--model.n_directions=3",
    "--data.samples_per_epoch=256",
    "--data.batch_size=128",
    "--data.heldout_samples=64",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
]


def arguments(folder: Path, *more: str, config: Path = CONFIG) -> list[str]:
    return ["fit", "--config", str(config), "--run_dir", str(folder), *QUICK, *more]


def ran(folder: Path, *more: str, prepare: Callable[[int], None] = lambda rank: None) -> tuple[int, str]:
    """Exit code and output of a fit in a process of its own."""
    folder.parent.mkdir(exist_ok=True)
    process = CommandProcess(arguments(folder, *more), folder.with_suffix(".log"), prepare=prepare)
    return process.wait()[0], " ".join(process.log.read_text().split())


def complete(folder: Path) -> bool:
    run = RunFolder(folder)
    parts = (run.metrics, run.directions, run.top_examples, run.scorecard)
    return run.read_json(run.manifest)["status"] == "complete" and all(part.exists() for part in parts)


# ------------------------------------------------------------------------------------------------------------ terminals


@pytest.mark.parametrize(
    ("environment", "redirection"),
    [
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "> out.txt 2> err.txt"),
        ({}, "2>&1 | head -c 10"),
        ({}, ">&- 2> err.txt"),
        ({}, ">&- 2>&- <&-"),
    ],
    ids=["ascii", "cut off", "stdout closed", "all closed"],
)
def test_the_terminal_costs_no_run(tmp_path: Path, environment: dict[str, str], redirection: str) -> None:
    command = [sys.executable, "-m", "eigen_lightning", *arguments(tmp_path / "run", "--report=false")]
    line = f"set -o pipefail; cd {tmp_path} && {shlex.join(command)} {redirection}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, check=False)
    said = "".join(path.read_text(errors="replace") for path in tmp_path.glob("*.txt"))
    assert done.returncode == 0, said + done.stderr.decode()
    assert complete(tmp_path / "run")
    assert "Traceback" not in said
    if "out.txt" in redirection:
        assert " ? " in (tmp_path / "out.txt").read_text(encoding="ascii"), "± of the scorecard"


# --------------------------------------------------------------------------------------------------------- environments


def leftover(name: str) -> Callable[[int], None]:
    def prepare(rank: int) -> None:
        os.environ[name] = "1"
        # What Lightning guesses from it when it is imported.
        rank_zero_only.rank = 1

    return prepare


@pytest.mark.parametrize("name", ["SLURM_PROCID", "RANK", "LOCAL_RANK"])
def test_a_rank_left_over_in_the_environment_is_told_and_changes_nothing(tmp_path: Path, name: str) -> None:
    code, said = ran(tmp_path / "run", prepare=leftover(name))
    assert code == 0, said
    assert said.count(f"{name}=1 is left over") == 1
    assert complete(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_a_batch_job_without_srun_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    def prepare(rank: int) -> None:
        os.environ.update({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "job", "SLURM_PROCID": "0"})

    code, said = ran(tmp_path / "run", prepare=prepare)
    assert code == 2
    assert "srun eigen-lightning fit" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_no_git_is_needed(tmp_path: Path) -> None:
    def prepare(rank: int) -> None:
        os.environ["PATH"] = str(tmp_path)

    code, said = ran(tmp_path / "run", "--report=false", prepare=prepare)
    assert code == 0, said
    assert RunFolder(tmp_path / "run").read_json(tmp_path / "run" / "manifest.json")["git_revision"] is None


# --------------------------------------------------------------------------------------------------------- file systems


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links_is_run_on(tmp_path: Path, number: int) -> None:
    def prepare(rank: int) -> None:
        def no_links(*paths: object) -> None:
            raise OSError(number, os.strerror(number))

        os.link = no_links  # type: ignore[assignment]

    code, said = ran(tmp_path / "run", "--report=false", "--trainer.max_epochs=2", prepare=prepare)
    assert code == 0, said
    before = read_checkpoint(tmp_path / "run" / "checkpoints" / "previous.ckpt")["global_step"]
    assert 0 < before <= read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_disk_that_fails_later_ends_in_one_line_with_the_last_good_checkpoint(tmp_path: Path, number: int) -> None:
    def prepare(rank: int) -> None:
        def failing(path: Path, content: bytes) -> None:
            if path.name == "interference.npy":
                raise OSError(number, os.strerror(number), str(path))
            write(path, content)

        write = run_folder.write_atomically
        run_folder.write_atomically = failing

    code, said = ran(tmp_path / "run", prepare=prepare)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert code == 2
    assert "Traceback" not in said
    assert os.strerror(number) in said
    assert f"--ckpt_path {last}" in said
    assert read_checkpoint(last)["global_step"] >= 0


# ----------------------------------------------------------------------------------------------------- equal, repeated


def test_equal_runs_are_equal_to_the_byte(tmp_path: Path) -> None:
    sums = []
    for name in ("one", "two"):
        code, said = ran(tmp_path / name, "--report=false")
        assert code == 0, said
        files = ("directions.safetensors", "target.safetensors", "config.yaml", "top_examples.jsonl", "metrics.csv")
        sums.append({file: hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest() for file in files})
    assert sums[0] == sums[1]


def test_a_runs_configuration_repeats_it_into_fresh_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = Path("elsewhere", "tms")
    assert ran(tmp_path / first, "--report=false")[0] == 0
    again = ["fit", "--config", str(first / "config.yaml")]
    for name in ("tms_again", "tms_again_2"):
        CommandProcess(again, tmp_path / "log").succeed()
        for file in ("directions.safetensors", "config.yaml"):
            assert (tmp_path / "runs" / name / file).read_bytes() == (tmp_path / first / file).read_bytes()
    CommandProcess(["fit", "--config", "runs/tms_again/config.yaml"], tmp_path / "log").succeed()
    assert complete(tmp_path / "runs" / "tms_again_3")


def test_a_runs_configuration_means_the_run_to_go_on_with_and_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ran(tmp_path / "tms", "--report=false")[0] == 0
    run = RunFolder("tms")
    for args in (
        ["validate"],
        ["fit", "--ckpt_path=last", "--trainer.max_epochs=2"],
        ["fit", "--overwrite=true"],
    ):
        CommandProcess([args[0], "--config", str(run.config), *args[1:]], tmp_path / "log").succeed()
        assert not (tmp_path / "runs").exists()
    assert run.read_json(run.manifest)["epochs"] == 2, "of the configuration, as the resumed run left it"


def test_relative_paths_hold_in_another_working_directory(tmp_path: Path) -> None:
    from eigen_lightning.api.configuration import with_absolute_paths

    for name in ("stories.txt", "model", "folder/stories"):
        (tmp_path / name).mkdir(parents=True)
    settings = {
        "class_path": "model",
        "init_args": {
            "source": "stories.txt",
            "name": "model",
            "heldout": "folder/stories",
            "text_column": "model",
            "tokenizer": "nowhere",
            "hub": "roneneldan/TinyStories",
            "parameters": ["blocks.0.W", "stories.txt"],
            "marker": "<|endoftext|>",
            "batch_size": 3,
        },
    }
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        found = with_absolute_paths(settings)["init_args"]
    finally:
        os.chdir(before)
    changed = {"source": "stories.txt", "name": "model", "heldout": "folder/stories"}
    assert found == settings["init_args"] | {name: str(tmp_path / path) for name, path in changed.items()}  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------------------- endings


@pytest.mark.parametrize(
    "setting", ["limit_val_batches=0", "max_steps=1", "check_val_every_n_epoch=5", "callbacks=[]"], ids=str
)
def test_a_run_that_validated_nothing_has_a_report_of_what_there_is(tmp_path: Path, setting: str) -> None:
    code, said = ran(tmp_path / "run", f"--trainer.{setting}")
    run = RunFolder(tmp_path / "run")
    assert code == 0, said
    assert "no held-out sample was looked at" in said
    assert "3 directions" in run.report.read_text()
    # The remedy that is named.
    if setting == "limit_val_batches=0":
        main(["test", "--config", str(run.config), "--quiet"])
        main(["report", str(run.path), "--quiet"])
        assert len(run.read_top_examples()) == 3


def test_a_run_without_a_step_says_so(tmp_path: Path) -> None:
    code, said = ran(tmp_path / "run", "--trainer.limit_train_batches=0")
    assert code == 0, said
    assert "no batch was trained on" in said


# ------------------------------------------------------------------------------------------------- modules of one's own


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("import not_there_at_all", ("No module named 'not_there_at_all'", "broken_module.py, line 1")),
        ("\nraise RuntimeError('no weights here')", ("RuntimeError: no weights here", "line 2")),
        ("def f(:", ("SyntaxError", "broken_module.py, line 1")),
    ],
    ids=["a package that is missing", "an error of its own", "no Python"],
)
@pytest.mark.parametrize("by", ["target", "data", "callback", "argument"])
def test_a_module_that_fails_while_imported_reads_as_its_own_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    says: tuple[str, ...],
    by: str,
) -> None:
    (tmp_path / "broken_module.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_module", raising=False)
    config = yaml.safe_load(CONFIG.read_text())
    own = {"class_path": "broken_module.Mine"}
    if by == "target":
        config["model"]["target"] = own
    elif by == "data":
        config["data"] = own
    elif by == "callback":
        config["trainer"]["callbacks"].append(own)
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    more = ["--model.target=broken_module.Mine"] if by == "argument" else []
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(tmp_path / "config.yaml"), "--run_dir", str(tmp_path / "run"), *more])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.count("\n") == 1
    assert "expected broken_module.Mine to be imported, got " in said
    assert all(words in said for words in says), said
    assert "Union" not in said
    assert not (tmp_path / "run").exists()
