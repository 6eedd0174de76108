"""The demonstration: both systems from nothing, and where to look next."""

from pathlib import Path

import pytest
import yaml

from eigen_lightning.cli.main import main
from eigen_lightning.run.folder import RunFolder

CONFIGS = Path(__file__).parents[2] / "configs"


def shortened(name: str, folder: Path) -> None:
    """The shipped configuration with fewer samples."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    config["data"]["init_args"]["samples_per_epoch"] = 2 * config["data"]["init_args"]["batch_size"]
    config["trainer"]["max_epochs"] = 1
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))


def test_both_systems_end_in_tables_and_a_pointer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("xor", "tms"):
        shortened(name, tmp_path)
    main(["demo", "--run_dir", str(tmp_path / "demo"), "--configs", str(tmp_path)])
    shown = capsys.readouterr().out
    assert shown.count("Top held-out samples") == 2
    assert "tensorboard --logdir" in shown
    assert f"Open the folder {tmp_path}"[:40] in shown.replace("\n", "")
    for name in ("xor", "tms"):
        assert RunFolder(tmp_path / "demo" / name).report.is_file()


def test_a_missing_configuration_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--run_dir", str(tmp_path / "demo"), "--configs", str(tmp_path)])
    assert "xor.yaml" in capsys.readouterr().err
