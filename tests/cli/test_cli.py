"""The command line on real systems: the run folder's contract, the stable names, and every shipped configuration."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from eigen_lightning.cli.main import main
from eigen_lightning.run.folder import RunFolder

CONFIGS = Path(__file__).parents[2] / "configs"
QUICK = [
    "--model.target.features=3",
    "--model.target.hidden=2",
    "--model.n_directions=3",
    "--data.samples_per_epoch=512",
    "--data.batch_size=128",
    "--data.heldout_samples=64",
    "--trainer.max_epochs=2",
    "--trainer.log_every_n_steps=2",
]


def fit(config: str, run_dir: Path, *arguments: str) -> RunFolder:
    # Shapes are given after the configuration that they vary.
    parts = ["tms.yaml", config] if config in ("tms_20_6.yaml", "tms_40_10.yaml") else [config]
    if config.startswith("circuits_"):
        parts = ["circuits.yaml", *(["circuits_groups.yaml"] if "subspaces" in config else []), config]
    configs = [part for name in parts for part in ("--config", str(CONFIGS / name))]
    main(["fit", *configs, "--run_dir", str(run_dir), "--quiet=true", *arguments])
    return RunFolder(run_dir)


@pytest.fixture(scope="module")
def tms_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    torch.set_num_threads(1)
    return fit("tms.yaml", tmp_path_factory.mktemp("runs") / "tms", "--seed_everything=3", *QUICK)


def test_the_run_folder_holds_what_it_promises(tms_run: RunFolder) -> None:
    for path in (tms_run.config, tms_run.manifest, tms_run.last_checkpoint, tms_run.metrics, tms_run.target):
        assert path.is_file()
    for path in (tms_run.directions, tms_run.interference, tms_run.top_examples):
        assert path.is_file()
    assert any(tms_run.tensorboard.glob("events.out.tfevents.*"))
    assert not list(tms_run.path.glob("lightning_logs"))


def test_directions_are_unit_rows_with_names_and_shapes(tms_run: RunFolder) -> None:
    directions, shapes = tms_run.read_directions()
    assert directions.shape == (3, 9)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(3))
    assert shapes == {"W": (2, 3), "b": (3,)}


def test_manifest_says_where_the_result_comes_from(tms_run: RunFolder) -> None:
    manifest = json.loads(tms_run.manifest.read_text())
    assert manifest["status"] == "complete"
    assert manifest["seed"] == 3
    assert (manifest["epochs"], manifest["steps"]) == (2, 8)
    assert manifest["versions"]["torch"] == torch.__version__
    assert len(manifest["target_fingerprint"]) == len(manifest["data_fingerprint"]) == 64


def test_metrics_have_one_row_a_step(tms_run: RunFolder) -> None:
    lines = tms_run.metrics.read_text().splitlines()
    names = lines[0].split(",")
    steps = [int(line.split(",")[0]) for line in lines[1:]]
    assert {"step", "train/steepness", "heldout/steepness", "heldout/interference", "unhealthy/dead"} <= set(names)
    assert "d2D_mean/000" not in names
    assert steps == sorted(set(steps))


def test_top_examples_are_true(tms_run: RunFolder) -> None:
    """d2D of each listed input, evaluated anew by nested products, is the value listed."""
    from eigen_lightning.curvature import MSE, Linearizer
    from eigen_lightning.targets import TMSTarget

    target = TMSTarget(features=3, hidden=2)
    target.load(tms_run)
    directions, _ = tms_run.read_directions()
    lines = tms_run.read_top_examples()
    assert [line["direction"] for line in lines] == [0, 1, 2]
    for key in ("examples", "single_feature"):
        for line in lines:
            inputs = torch.tensor([example["input"] for example in line[key]])
            nested = Linearizer.prepare(target, MSE(), inputs, "nested")
            values = nested(inputs).d2D(directions[[line["direction"]]])[0]
            listed = torch.tensor([example["value"] for example in line[key]])
            # Inputs are listed to four decimals.
            torch.testing.assert_close(values, listed, rtol=2e-3, atol=1e-3)
            assert listed.tolist() == sorted(listed.tolist(), reverse=True)


def test_interference_is_symmetric_and_largest_on_the_diagonal(tms_run: RunFolder) -> None:
    matrix = np.load(tms_run.interference)
    assert matrix.shape == (3, 3)
    assert (matrix >= 0).all()
    assert np.allclose(matrix, matrix.T)
    root = np.sqrt(np.diag(matrix))
    assert ((matrix / root[:, None] / root)[~np.eye(3, dtype=bool)] < 0.5).all()


def test_config_repeats_the_run(tms_run: RunFolder, tmp_path: Path) -> None:
    main(["fit", "--config", str(tms_run.config), "--run_dir", str(tmp_path / "again")])
    again = RunFolder(tmp_path / "again")
    assert torch.equal(again.read_directions()[0], tms_run.read_directions()[0])
    assert again.top_examples.read_text() == tms_run.top_examples.read_text()


def test_validate_and_test_find_the_same_again(tms_run: RunFolder) -> None:
    before = [line["examples"] for line in tms_run.read_top_examples()]
    for command in ("validate", "test"):
        main([command, "--config", str(tms_run.config), "--run_dir", str(tms_run.path)])
        assert [line["examples"] for line in tms_run.read_top_examples()] == before


def test_predict_writes_every_sample_for_every_direction(tms_run: RunFolder) -> None:
    main(["predict", "--config", str(tms_run.config), "--run_dir", str(tms_run.path)])
    table = pq.read_table(tms_run.path / "predictions.parquet").to_pydict()
    assert list(table) == ["sample_id", "position", "direction_000", "direction_001", "direction_002"]
    assert len(set(table["sample_id"])) == len(table["sample_id"]) == 64
    best = tms_run.read_top_examples()[1]["examples"][0]
    at = int(np.argmax(table["direction_001"]))
    assert table["sample_id"][at] == best["sample_id"]
    assert table["direction_001"][at] == pytest.approx(best["value"], rel=1e-6)


def test_a_second_run_does_not_touch_the_first(tms_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in tms_run.path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        fit("tms.yaml", tms_run.path, *QUICK)
    assert stopped.value.code == 2
    assert "--ckpt_path last" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tms_run.path.rglob("*") if path.is_file()} == before


def test_overwriting_takes_nothing_of_the_first_run(tmp_path: Path) -> None:
    run = fit("tms.yaml", tmp_path / "run", *QUICK)
    first = run.target.read_bytes()
    (run.path / "notes.txt").write_text("mine")
    fit("tms.yaml", run.path, "--overwrite=true", "--seed_everything=9", *QUICK)
    assert run.target.read_bytes() != first
    assert (run.path / "notes.txt").read_text() == "mine"
    assert not (run.path / ".replaced").exists()


def test_bad_input_found_late_gives_the_first_run_back(tmp_path: Path) -> None:
    run = fit("tms.yaml", tmp_path / "run", *QUICK)
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    with pytest.raises(SystemExit):
        fit("tms.yaml", run.path, "--overwrite=true", *QUICK, '--model.target.parameters=["nothing"]')
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before


def test_xor_finds_one_direction_for_each_non_zero_input(tmp_path: Path) -> None:
    """Bar 2 of the first issue on one seed; ``study`` runs it on fifty."""
    run = fit("xor.yaml", tmp_path / "xor", "--data.samples_per_epoch=640", "--trainer.max_epochs=1")
    leaders = sorted(line["examples"][0]["input"] for line in run.read_top_examples())
    assert leaders == [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    assert all(len(line["examples"]) == 4 for line in run.read_top_examples())


SHORTENED = {
    "xor": ["--data.samples_per_epoch=256", "--trainer.max_epochs=1"],
    "tms": ["--data.samples_per_epoch=8192", "--trainer.max_epochs=1"],
    "tms_20_6": ["--data.samples_per_epoch=2048", "--trainer.max_epochs=1", "--model.start.steps=1"],
    "tms_40_10": ["--data.samples_per_epoch=2048", "--trainer.max_epochs=1", "--model.start.steps=1"],
    "tinystories": [
        "--data.n_sequences=8",
        "--data.n_heldout_sequences=8",
        "--data.batch_size=4",
        "--trainer.max_epochs=2",
        "--model.n_directions=2",
    ],
    "tinystories_factored": [
        "--data.n_sequences=8",
        "--data.n_heldout_sequences=8",
        "--data.batch_size=4",
        "--trainer.max_epochs=1",
        "--model.n_directions=2",
        "--model.directions.probes=4",
        "--model.start.samples=4",
        "--model.start.steps=2",
        "--model.start.sweeps=1",
        '--model.target.parameters=["blocks.4.*.W_*"]',
    ],
}


LITTLE = [
    "--data.samples_per_epoch=2048",
    "--trainer.max_epochs=1",
    "--model.start.steps=1",
    "--model.start.samples=1024",
]
SHORTENED |= {
    f"circuits{name}": LITTLE for name in ("", "_groups", "_identity", "_relu", "_residual", "_square", "_subspaces")
}
TINY = ["--model.target.d_model=8", "--model.target.steps=100", "--model.target.accepted_loss=1e9"]
SHORTENED |= {
    "circuits_modular": [*TINY, "--trainer.max_epochs=1", "--model.start.steps=1", "--model.start.samples=256"],
    "circuits_induction": [
        "--model.target.d_model=16",
        *TINY[1:],
        *LITTLE[1:3],
        "--data.samples_per_epoch=64",
        "--model.start.samples=32",
    ],
    "grammar": ["--data.n_sequences=64", "--data.n_heldout_sequences=32", "--model.n_directions=4", *LITTLE[1:3]],
}


SLOW = ("tinystories_factored", "grammar", "circuits_square", "circuits_residual", "circuits_subspaces")


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else [], id=path.stem)
        for path in sorted(CONFIGS.glob("*.yaml"))
    ],
)
def test_every_shipped_configuration_runs(config: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    system = config.stem.removesuffix("_as_published")
    if config.stem == "tms_40_10":
        pytest.skip("takes more than ten seconds: see the slow test")
    arguments = [*SHORTENED[system], "--report=false"]
    if "tinystories" in system:
        arguments += [
            f"--model.target.name={request.getfixturevalue('gpt_neo_folder')}",
            f"--data.source={request.getfixturevalue('tinystories_file')}",
        ]
    run = fit(config.name, tmp_path / "run", *arguments)
    assert json.loads(run.manifest.read_text())["status"] == "complete"
    if system == "tinystories":
        predictions_at_the_start_are_zero(run)


@pytest.mark.slow
def test_the_large_toy_configuration_runs(tmp_path: Path) -> None:
    run = fit("tms_40_10.yaml", tmp_path / "run", *SHORTENED["tms_40_10"], "--report=false")
    assert run.read_directions()[0].shape[0] == 40


def predictions_at_the_start_are_zero(run: RunFolder) -> None:
    """Softmax over a single key does not move: position 0 has no curvature along W_K."""
    main(["predict", "--config", str(run.config), "--run_dir", str(run.path)])
    table = pq.read_table(run.path / "predictions.parquet").to_pandas()
    values = table.filter(like="direction_")
    assert values[table.position == 0].abs().to_numpy().max() == 0
    assert (values[table.position == 5].to_numpy() > 0).any()


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_of_a_shipped_configuration_is_explained(config: Path) -> None:
    """A comment stands above each key that takes a value, or above the group it belongs to."""
    lines = config.read_text().splitlines()
    assert yaml.safe_load("\n".join(lines))
    for at, line in enumerate(lines):
        key, _, value = line.strip().removeprefix("- ").partition(":")
        if not value.strip() or line.strip().startswith("#") or key == "class_path":
            continue
        above = [text.strip() for text in lines[max(0, at - 4) : at]]
        assert any(text.startswith("#") for text in above), f"{config.name}: {key} has no comment"


def test_help_and_toys_import_nothing_heavy() -> None:
    code = (
        "import sys; import lightning.pytorch, torchmetrics; given = set(sys.modules)\n"
        "from eigen_lightning.cli.main import main\n"
        "try: main(['fit', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'transformer_lens', 'datasets', 'matplotlib', 'pandas', 'pyarrow'} & (set(sys.modules) - given)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--run_dir" in done.stdout


def test_the_stable_names_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["seed_everything", "model.n_directions", "model.target.name", "model.target.parameters", "ckpt_path"]
    names += [f"data.{name}" for name in ("source", "heldout", "batch_size", "context_length", "n_sequences")]
    names += ["trainer.max_epochs"]
    values = {"model.target.parameters": '["blocks.4.attn.W_K"]', "data.source": "x.txt", "ckpt_path": "null"}
    values |= {"model.target.name": "folder", "data.heldout": "y.txt"}
    arguments = [f"--{name}={values.get(name, '16')}" for name in names]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(CONFIGS / "tinystories.yaml"), *arguments, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["target"]["init_args"]["name"] == "folder"
    assert printed["data"]["init_args"]["context_length"] == 16
