"""verify-resume: says so where two runs are the same, and which part where they are not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from eigen_lightning.cli.main import main
from eigen_lightning.cli.verify_resume import differences
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from tests.kinds import Kinds


@pytest.fixture
def twins(kinds: Kinds, tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    whole = kinds.finished("xor")
    shutil.copytree(whole, tmp_path / "twin")
    return RunFolder(whole), RunFolder(tmp_path / "twin")


def test_the_same_run_does_not_differ(twins: tuple[RunFolder, RunFolder]) -> None:
    assert differences(*twins) == []


def test_the_tensor_that_differs_is_named(twins: tuple[RunFolder, RunFolder]) -> None:
    path = twins[1].last_checkpoint
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["U"][1, 2] += 0.5
    checkpoint["optimizer_states"][1]["state"][0]["step"] += 1
    torch.save(checkpoint, path)
    found = differences(*twins)
    assert len(found) == 2
    assert found[0].startswith("checkpoint optimizer_states[1].state.0.step: 1 of 1 numbers, by 1 ")
    assert found[1] == "checkpoint state_dict.U: 1 of 18 numbers, by 0.5 at most"


def test_the_file_and_line_that_differ_are_named(twins: tuple[RunFolder, RunFolder]) -> None:
    lines = twins[1].metrics.read_text().splitlines()
    lines[3] = lines[3].replace("0.", "1.", 1)
    twins[1].metrics.write_text("\n".join(lines) + "\n")
    np.save(twins[1].interference, np.load(twins[1].interference) + 1)
    twins[1].top_examples.unlink()
    found = differences(*twins)
    assert [line.split(":")[0] for line in found] == ["metrics.csv", "top_examples.jsonl", "interference.npy"]
    assert found[0] == "metrics.csv: line 4"
    assert found[1] == "top_examples.jsonl: only one run has it"


def test_numbers_out_of_range_and_missing_files_are_refused(tmp_path: Path) -> None:
    from eigen_lightning.cli.verify_resume import verify_resume

    with pytest.raises(UserError, match="kills of at least 1, got 0"):
        verify_resume(str(tmp_path / "x.yaml"), kills=0)
    with pytest.raises(UserError, match="which is no file"):
        verify_resume(str(tmp_path / "x.yaml"))


@pytest.mark.slow
def test_the_command_proves_a_configuration(kinds: Kinds, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "xor.yaml").write_text(yaml.safe_dump(kinds.config("xor")))
    main(["verify-resume", "--config", str(tmp_path / "xor.yaml"), "--kills", "1", "--batches", "5"])
    assert "bit-identical after 1 kills" in capsys.readouterr().out
