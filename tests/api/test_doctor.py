"""The doctor: what it finds before a run is started, and whether the run then takes what it said."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from eigen_lightning.api import doctor as module
from eigen_lightning.api.configured import EigenLightningCLI, run_configured
from eigen_lightning.api.doctor import doctor
from eigen_lightning.cli.main import main, mendable
from eigen_lightning.learning import expected as expectation
from eigen_lightning.learning.callbacks import expected_time
from eigen_lightning.learning.expected import Expected, expected, measured, shown_time

CONFIGS = Path(__file__).parents[2] / "configs"


def statuses(*args: str) -> dict[str, tuple[str, str]]:
    return {check.name: (check.status, check.message) for check in doctor(args, mendable)}


def test_a_run_that_would_start_passes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = statuses("--config", str(CONFIGS / "xor.yaml"), "--run_dir", "runs/xor")
    assert {status for status, _ in found.values()} == {"ok"}
    assert found["the target takes the data"][1].startswith("6 parameters in 2: weight, bias")
    assert "32 steps of" in found["time and memory"][1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "stage", "said"),
    [
        (["--model.exponent=99"], 0, "model.exponent in"),
        (["--data.batch_size=0"], 0, "batch_size of at least 1"),
        (["--data.probability=2"], 0, "probability"),
        (["--model.target.parameters=[nothing]"], 2, "nothing"),
    ],
)
def test_a_failure_says_how_to_mend_it_and_what_was_not_reached(arguments: list[str], stage: int, said: str) -> None:
    checks = doctor(["--config", str(CONFIGS / "tms.yaml"), *arguments], mendable)
    assert [check.status for check in checks[:stage]] == ["ok"] * stage
    assert checks[stage].status == "failed"
    assert said in checks[stage].message
    assert {check.status for check in checks[stage + 1 :]} <= {"not reached"}


def test_results_in_the_folder_are_a_warning_and_the_exit_code_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    main(["doctor", "--config", str(CONFIGS / "xor.yaml"), "--run_dir", str(tmp_path)])
    assert "warning" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--config", str(CONFIGS / "xor.yaml"), "--model.exponent", "99"])
    assert ended.value.code == 1
    assert "failed" in capsys.readouterr().out


def test_factors_take_less_memory_than_rows_and_more_of_them_fit() -> None:
    """As the least sum of rows and columns is below their product: 40 + 10 numbers and 40 for 440."""
    args = ["--config", str(CONFIGS / "tms.yaml"), "--config", str(CONFIGS / "tms_40_10.yaml")]
    args += ["--model.objective=coverage", "--model.start.samples=256"]
    most = {}
    for held in ("null", "{rank: 1}"):
        (found,) = (check for check in doctor([*args, f"--model.directions={held}"], mendable)
                    if check.name == "time and memory")  # fmt: skip
        assert found.status == "ok"
        most[held] = found.message
    assert "440 directions fit" in most["null"]
    assert "GiB" in most["{rank: 1}"]


class Timer(Callback):
    """Notes the estimate and then the CPU seconds of learning, validation left out."""

    def __init__(self) -> None:
        self.told: Any = None
        self.seconds = self.since = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.told = expected(pl_module)
        self.since = time.process_time()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.seconds += time.process_time() - self.since

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.since = time.process_time()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.seconds += time.process_time() - self.since


@pytest.fixture
def one_thread_s_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time as this process has it, so that what else the machine does changes nothing."""
    torch.set_num_threads(1)
    monkeypatch.setattr(expectation.time, "monotonic", time.process_time)


def learning(tmp_path: Path, *args: str) -> Timer:
    timer = Timer()

    class Timed(EigenLightningCLI):
        def instantiate_trainer(self, **kwargs: Any) -> Any:
            trainer = super().instantiate_trainer(**kwargs)
            trainer.callbacks.insert(0, timer)
            return trainer

    run_configured(["fit", *args, f"--run_dir={tmp_path / 'run'}", "--quiet=true", "--report=false"], Timed)
    return timer


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread_s_seconds")
def test_a_language_models_run_takes_what_was_said(
    tmp_path: Path, gpt_neo_folder: Path, tinystories_file: Path
) -> None:
    timer = learning(
        tmp_path, f"--config={CONFIGS / 'tinystories.yaml'}", f"--model.target.name={gpt_neo_folder}",
        f"--data.source={tinystories_file}", "--data.n_sequences=128", "--data.n_heldout_sequences=32",
        "--model.start.samples=64", "--trainer.max_epochs=3", "--trainer.callbacks=[]",
    )  # fmt: skip
    assert timer.told.steps == 12
    assert timer.seconds / 1.5 < timer.told.seconds < timer.seconds * 1.5


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread_s_seconds")
def test_a_toys_run_takes_what_was_said(tmp_path: Path) -> None:
    timer = learning(
        tmp_path, f"--config={CONFIGS / 'circuits.yaml'}", f"--config={CONFIGS / 'circuits_residual.yaml'}",
        "--trainer.callbacks=[]", "--trainer.max_epochs=8",
    )  # fmt: skip
    assert timer.seconds / 1.5 < timer.told.seconds < timer.seconds * 1.5


def test_a_long_run_says_so_in_one_line_and_a_short_one_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = Expected(40.0, 0.5, 400, 1e9, 1e6, 1000)
    monkeypatch.setattr(expected_time, "expected", lambda _: told)
    args = ["fit", f"--config={CONFIGS / 'xor.yaml'}", "--report=false", "--trainer.max_epochs=1"]
    with caplog.at_level(logging.INFO, "eigen_lightning"):
        run_configured([*args, f"--run_dir={tmp_path / 'long'}"])
        assert "learning takes about 4 minutes: a start of 40 seconds, then 400 steps of 0.5 s" in caplog.text
        caplog.clear()
        monkeypatch.setattr(expected_time, "expected", lambda _: Expected(1.0, 0.01, 400, 1e9, 1e6, 1000))
        run_configured([*args, f"--run_dir={tmp_path / 'short'}"])
        assert "learning takes" not in caplog.text


def test_times_are_said_as_people_say_them() -> None:
    assert [shown_time(seconds) for seconds in (0.123, 42, 240, 9000)] == [
        "0.12 seconds", "42 seconds", "4 minutes", "2.5 hours"
    ]  # fmt: skip


def test_a_long_step_is_measured_once_and_a_short_one_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(expectation.time, "monotonic", lambda: clock[0])
    lengths = iter([5.0])

    def step() -> None:
        clock[0] += next(lengths)

    assert measured(step) == 5.0
    lengths = iter([0.4, 0.1, 0.1, 0.3, 0.1, 0.1])
    assert measured(step) == pytest.approx(0.1)


def test_every_stage_has_a_name() -> None:
    assert len(set(module.STAGES)) == len(module.STAGES)


MEASURED = """
import json, sys, torch
from lightning.pytorch import Callback
from eigen_lightning.api.configured import EigenLightningCLI, run_configured
from eigen_lightning.learning.expected import expected, resident_bytes

class Told(Callback):
    def on_train_start(self, trainer, pl_module):
        self.told = expected(pl_module)

told = Told()

class Watched(EigenLightningCLI):
    def instantiate_trainer(self, **kwargs):
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks.insert(0, told)
        return trainer

torch.set_num_threads(1)
run_configured(sys.argv[1:], Watched)
print(json.dumps([told.told.bytes_now + told.told.bytes_more, resident_bytes(torch.device("cpu"))]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("held", ["null", "{rank: 1}"])
def test_a_run_takes_the_memory_that_was_said(
    held: str, tmp_path: Path, gpt_neo_folder: Path, tinystories_file: Path
) -> None:
    """Of a process of its own, whose peak is read from the kernel; the rows' share of it is above half where dense."""
    args = [
        "fit", f"--config={CONFIGS / 'tinystories.yaml'}", f"--model.target.name={gpt_neo_folder}",
        "--model.target.parameters=[blocks.*.mlp.W_in]", f"--data.source={tinystories_file}",
        "--data.n_sequences=16", "--data.n_heldout_sequences=16", "--data.batch_size=16", "--model.start.samples=16",
        "--model.n_directions=160", "--model.objective=coverage", "--model.start.principal_steps=0",
        "--model.start.steps=1", "--model.start.singular_vectors=false", f"--model.directions={held}",
        "--trainer.max_epochs=1", "--trainer.callbacks=[]", "--report=false", "--quiet=true",
        "--trainer.enable_checkpointing=false", f"--run_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *args], capture_output=True, text=True, check=True, timeout=500
    )
    told, took = json.loads(done.stdout.splitlines()[-1])
    assert took / 1.5 < told < took * 1.5
