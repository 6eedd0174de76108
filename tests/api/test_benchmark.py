"""The table of known circuits: what is run, what counts, and the page."""

import json
from pathlib import Path

import pytest

from eigen_lightning.api.benchmark import benchmark
from eigen_lightning.api.configuration import shipped_folder
from eigen_lightning.api.known_systems import SYSTEMS
from eigen_lightning.cli.main import main
from eigen_lightning.run.errors import UserError


def test_every_system_names_shipped_configurations() -> None:
    for system in SYSTEMS.values():
        assert all((shipped_folder() / f"{name}.yaml").is_file() for name in system.configs), system.name
        assert system.bar, system.name


def test_one_run_resumes_and_its_page_holds_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bench"
    main(["benchmark", "--systems", "[xor]", "--seeds", "1", "--run_dir", str(folder)])
    assert "1 of 1" in capsys.readouterr().out
    card = folder / "xor" / "as_configured" / "seed_0000" / "scorecard.json"
    before = card.stat().st_mtime_ns
    made = benchmark(["xor"], seeds=1, run_dir=str(folder))
    assert card.stat().st_mtime_ns == before
    (found,) = made.systems
    learned = json.loads(card.read_text())["learned"]
    assert found.met == 1
    assert found.mean["learned"] == found.least == learned["mcc"]
    assert found.mean["pca"] < found.mean["learned"]
    assert 0.9 < found.objective < 1.2  # type: ignore[operator]
    stored = json.loads((folder / "benchmark.json").read_text())
    assert stored["systems"][0]["eigenshare"] == found.eigenshare
    assert "| XOR, two GELU nodes | all 3, mcc 0.99 on 20 | 1 of 1 |" in (folder / "benchmark.md").read_text()
    page = (folder / "benchmark.html").read_text()
    assert "XOR, two GELU nodes" in page
    assert f"{found.least:.3f}" in page


def test_bars_are_held_against_the_figures_and_the_controls() -> None:
    learned = {"matched": 10, "mcc": 0.995, "selectivity": 0.97, "context_states": 4.0}
    row = {"learned": learned, "features": 10, "pca": {"context_states": 3.0}, "random": {"context_states": 0.0}}
    assert SYSTEMS["tms_40_10"].met(row)
    assert not SYSTEMS["tms_40_10"].met(row | {"features": 11})
    assert not SYSTEMS["tms_40_10"].met({**row, "learned": learned | {"mcc": 0.98}})
    assert SYSTEMS["grammar_16"].met(row)
    assert not SYSTEMS["grammar_16"].met(row | {"random_network": {"context_states": 4.0}})


def test_an_unknown_system_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got 'xors'"):
        benchmark(["xors"], run_dir=str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "residual_orthogonal"])
def test_each_system_reaches_its_bar_on_a_seed(name: str, tmp_path: Path) -> None:
    (found,) = benchmark([name], seeds=1, first_seed=7, run_dir=str(tmp_path)).systems
    assert not found.failures
    assert found.met == 1
    # Addition and induction claim nothing against PCA.
    controls = ["random"] if name in ("modular", "induction") else ["pca", "random"]
    assert all(found.mean["learned"] > found.mean[control] for control in controls)
