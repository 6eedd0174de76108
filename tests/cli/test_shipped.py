"""Shipped configurations by name, the version, and the command alone."""

from importlib.metadata import version
from pathlib import Path

import pytest

from eigen_lightning.api.configuration import shipped_folder as folder
from eigen_lightning.cli.main import main, run
from eigen_lightning.cli.shipped import named
from eigen_lightning.run.errors import UserError


def test_a_name_is_the_shipped_configuration_and_a_file_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = str(folder() / "tms.yaml")
    assert named(["fit", "--config", "tms", "--config=tms", "--run_dir", "tms"]) == [
        "fit", "--config", shipped, f"--config={shipped}", "--run_dir", "tms"
    ]  # fmt: skip
    assert named(["fit", "--config", "my/tms.yaml"]) == ["fit", "--config", "my/tms.yaml"]
    (tmp_path / "tms").write_text("seed_everything: 1\n")
    assert named(["fit", "--config", "tms"]) == ["fit", "--config", "tms"]


def test_an_unknown_name_is_one_line_with_the_names() -> None:
    with pytest.raises(UserError, match=r"got 'tmss'.*tms"):
        run(["fit", "--config", "tmss"])


def test_the_lists_name_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs"])
    listed = capsys.readouterr().out
    assert all(path.stem in listed for path in folder().glob("*.yaml"))
    main([])
    assert "fit --config tms" in capsys.readouterr().out
    main(["--version"])
    assert capsys.readouterr().out.strip() == f"eigen-lightning {version('eigen-lightning')}"
