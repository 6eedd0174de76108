"""The demonstration: all networks from nothing, and where to look next."""

from pathlib import Path

import pytest
import yaml

from eigen_lightning.cli import demo
from eigen_lightning.cli.main import main
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import grammar

CONFIGS = Path(__file__).parents[2] / "configs"


def shortened(name: str, folder: Path) -> None:
    """The shipped configuration with fewer samples."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    config["data"]["init_args"]["samples_per_epoch"] = 2 * config["data"]["init_args"]["batch_size"]
    config["trainer"]["max_epochs"] = 1
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))


def little_grammar(folder: Path) -> None:
    """The grammar's configuration for a network that is hardly trained and decomposed on little text."""
    config = yaml.safe_load((CONFIGS / "grammar.yaml").read_text())
    config["model"]["target"]["init_args"] |= {"d_model": 24, "steps": 30}
    config["data"]["init_args"] |= {"n_heldout_sequences": 32}
    (folder / "grammar.yaml").write_text(yaml.safe_dump(config))


def test_all_systems_end_in_tables_and_a_pointer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("xor", "tms"):
        shortened(name, tmp_path)
    little_grammar(tmp_path)
    monkeypatch.setattr(grammar, "LARGEST_GAP", 9.0)
    monkeypatch.setattr(grammar, "TRAINING_WINDOWS", 300)
    little = ("--model.n_directions=4", "--model.start.samples=32", "--data.n_sequences=32", "--trainer.max_epochs=1")
    monkeypatch.setattr(demo, "PARTS", (*demo.PARTS[:2], demo.PARTS[2]._replace(arguments=little)))
    main(["demo", "--run_dir", str(tmp_path / "demo"), "--configs", str(tmp_path)])
    shown = capsys.readouterr().out
    assert shown.count("Top held-out samples") == 3
    assert "Planted regularities found" in shown
    assert "Regularities that need context: learned" in shown
    assert "tensorboard --logdir" in shown
    assert f"Open the folder {tmp_path}"[:40] in shown.replace("\n", "")
    for name in ("xor", "tms", "grammar"):
        assert RunFolder(tmp_path / "demo" / name).report.is_file()


def test_a_missing_configuration_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--run_dir", str(tmp_path / "demo"), "--configs", str(tmp_path)])
    assert "xor.yaml" in capsys.readouterr().err
