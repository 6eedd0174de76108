"""Five lines from a network to a run folder, and everything again from the folder alone."""

import html
import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import eigen_lightning as el
from eigen_lightning.cli.main import main
from eigen_lightning.curvature import Divergence
from eigen_lightning.learning.callbacks import Interference, TopExamples
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from tests.api.digits import digits, trained_cnn
from tests.api.networks import Recurrent, TwoInputs, UNetHead


@pytest.fixture(scope="module")
def cnn() -> nn.Module:
    return trained_cnn(*digits())


@pytest.fixture(scope="module")
def loader() -> DataLoader:
    return DataLoader(TensorDataset(*digits()), batch_size=256, shuffle=True)


README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def run(cnn: nn.Module, loader: DataLoader, tmp_path_factory: pytest.TempPathFactory) -> el.Run:
    """What README's own lines make of the digits."""
    block = next(
        block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "el.fit" in block
    )
    names: dict[str, Any] = {"model": cnn, "loader": loader, "images": digits()[0]}
    state, begun = torch.get_rng_state(), time.process_time()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("readme"))
        patch.delenv("PL_GLOBAL_SEED", raising=False)
        exec(compile(block, "README.md", "exec"), names)
        made: el.Run = names["run"]
        made.folder = RunFolder(made.folder.path.resolve())
        assert "PL_GLOBAL_SEED" not in os.environ
    assert time.process_time() - begun < 30
    assert torch.equal(torch.get_rng_state(), state)
    assert names["logits"].shape == (len(names["images"]), 10)
    assert torch.equal(names["again"].d2D(names["images"]), made.d2D(names["images"]))
    return made


def test_the_folder_is_that_of_the_command_line(run: el.Run) -> None:
    names = {path.name for path in run.folder.path.iterdir()}
    assert names >= {
        "report.html",
        "scorecard.json",
        "top_examples.jsonl",
        "interventions.json",
        "cards.jsonl",
        "directions.safetensors",
        "interference.npy",
        "metrics.csv",
        "tensorboard",
        "checkpoints",
        "manifest.json",
    }
    assert run.manifest["status"] == "complete"
    page = run.folder.report.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 6 * 5
    assert "img-src data:" in page


def test_a_run_from_disk_is_the_run(run: el.Run, cnn: nn.Module) -> None:
    inputs, _ = digits()
    again = el.load(run.folder.path, model=cnn)
    assert torch.equal(again.d2D(inputs[:300]), run.d2D(inputs[:300]))
    top = run.top_examples(2)
    assert again.top_examples(2) == top
    assert {"png", "label", "value", "summary"} <= set(top[0])
    assert run.directions["3.weight"].shape == (6, 8, 4, 3, 3)
    assert torch.equal(torch.cat([part.flatten(1) for part in run.directions.values()], 1), run.U)
    assert run.scorecard["learned"]["steepness"] > 10 * run.scorecard["random"]["steepness"]
    assert run.health.dead == again.health.dead
    assert float(run.structure(2).first_singular_share) > 0.2
    assert run.curve(2).selectivity > 1
    shared = el.compare(run, again)
    assert shared.n_shared == 6
    assert again.report() == run.folder.report
    assert run._repr_html_().startswith("<iframe")
    assert "<th>learned</th>" in run.scorecard._repr_html_()
    assert "6 directions in 296 parameters of Sequential" in repr(run)


def test_top_examples_are_those_of_largest_d2d(run: el.Run) -> None:
    inputs, _ = digits()
    best = run.d2D(inputs).amax(1)
    for k in range(len(run)):
        found = run.top_examples(k)[0]["value"]
        # Held-out samples are among all of them.
        assert 0 < found <= best[k] * (1 + 1e-4)


def test_perturbed_weights_move_the_output_as_d2d_says_and_return(run: el.Run) -> None:
    inputs, _ = digits()
    before = {name: tensor.clone() for name, tensor in run.target.weights.items()}
    reference = run.target.outputs(run.target.weights, inputs)
    expected = run.d2D(inputs)[1]
    delta = float((2e-4 / expected.max()) ** 0.5)
    moved = []
    for sign in (1, -1):
        with run.perturbed(1, sign * delta) as target:
            outputs = target.outputs(target.weights, inputs)
            moved.append(run.divergence.value(outputs.double(), reference.double()))
    most = expected.topk(50).indices
    # Where two pixels tie in max-pooling, each sign takes another branch and no derivative is both signs'.
    close = torch.isclose((sum(moved) / delta**2)[most].float(), expected[most], rtol=0.05, atol=0)
    assert close.float().mean() > 0.9
    with pytest.raises(ZeroDivisionError), run.perturbed(0, 1.0):
        raise ZeroDivisionError
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.target.weights.items())


def test_another_model_than_was_decomposed_is_refused(run: el.Run, cnn: nn.Module) -> None:
    path = run.folder.path
    without = el.load(path)
    assert without.scorecard == run.scorecard
    with pytest.raises(UserError, match=r"a Sequential, which .*load\(path, model="):
        without.d2D(digits()[0])
    other = trained_cnn(*digits(), epochs=0)
    with pytest.raises(UserError, match="got another"):
        el.load(path, model=other).d2D(digits()[0])
    with pytest.raises(UserError, match="got int"):
        el.load(path, model=3)
    with pytest.raises(UserError, match="from 0 to 5, got 6"):
        run.top_examples(6)
    with pytest.raises(UserError, match="no tokenizer"):
        run.d2D("some text")
    with pytest.raises(UserError, match=r"no manifest\.json"):
        el.load(path.parent)


def test_a_folder_with_results_is_kept_unless_asked(run: el.Run, cnn: nn.Module, loader: DataLoader) -> None:
    with pytest.raises(UserError, match="overwrite=True"):
        el.fit(cnn, loader, parameters=["3.*"], divergence="kl", n_directions=6, run_dir=run.folder.path)


def quickly(model: Any, data: Any, folder: Path, **options: Any) -> el.Run:
    settings = {"n_directions": 2, "max_epochs": 1, **options}
    return el.fit(model, data, run_dir=folder, **settings)


def test_default_folder_has_a_number_where_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("linear", "linear-2"):
        made = el.fit(nn.Linear(3, 2), torch.randn(40, 3), n_directions=2, max_epochs=1, report=False)
        assert made.folder.path == Path("runs") / name


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "one output": (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)), torch.randn(64, 3), {}),
    "pixels": (el.Network(UNetHead(), ["head.*"], "kl", (0, 2, 3)), torch.randn(64, 1, 4, 4), {}),
    "series": (Recurrent(nn.LSTM), torch.randn(64, 9, 2), {"parameters": ["cell.weight_hh*"]}),
    "dict": (
        el.Network(TwoInputs(), select="score"),
        [{"numbers": torch.randn(3), "kinds": i % 4, "label": f"kind {i % 4}"} for i in range(64)],
        {},
    ),
    "wide": (nn.Linear(100, 2), torch.randn(64, 100), {"parameters": ["weight"]}),
}


@pytest.mark.parametrize("name", list(CASES))
def test_any_network_ends_in_a_report(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, options = CASES[name]
    made = quickly(model, data, tmp_path / "run", quiet=False, **options)
    assert made.folder.report.exists()
    printed = capsys.readouterr().out
    assert "Top held-out samples" in printed
    tables = [line for line in printed.splitlines() if line[:1] in "│┃┏┡├└"]
    assert max(map(len, tables)) < 200
    module = model.module if isinstance(model, el.Network) else model
    again = el.load(tmp_path / "run", model=module)
    inputs = (
        data
        if isinstance(data, Tensor)
        else {
            "numbers": torch.stack([each["numbers"] for each in data]),
            "kinds": torch.tensor([each["kinds"] for each in data]),
        }
    )
    values = again.d2D(inputs)
    assert torch.equal(values, made.d2D(inputs))
    example = made.top_examples(0)[0]
    assert float(values[0].flatten(1).max() if values.ndim > 2 else values[0].max()) >= example["value"] * (1 - 1e-4)


def test_a_plain_trainer_leaves_a_folder_that_loads(tmp_path: Path) -> None:
    module = el.SparseEigendecomposition(el.TMSTarget(features=5, hidden=2), n_directions=5)
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=1,
        callbacks=[Interference(), TopExamples()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=el.TMS(batch_size=256, samples_per_epoch=1024))
    run = el.load(tmp_path)
    inputs = torch.eye(5)
    assert run.d2D(inputs).shape == (5, 5)
    assert torch.equal(run.U, module.U.detach())
    assert len(run.top_examples(4)) == 20
    with pytest.raises(UserError, match=r"eigen_lightning\.load\(run_dir\)"):
        el.SparseEigendecomposition.load_from_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="callback Scorecard"):
        _ = run.scorecard


def test_a_loader_alone_is_refused_with_the_remedy(tmp_path: Path) -> None:
    module = el.SparseEigendecomposition(el.XORTarget(), n_directions=2)
    trainer = Trainer(default_root_dir=tmp_path, max_epochs=1, logger=False, enable_progress_bar=False)
    with pytest.raises(UserError, match="FromLoader"):
        trainer.fit(module, DataLoader(TensorDataset(torch.rand(8, 2))))


def test_looking_at_a_run_loads_no_lightning(run: el.Run, tmp_path: Path) -> None:
    program = (
        "import sys, eigen_lightning as el\n"
        "heavy = {'torch', 'lightning', 'numpy', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"run = el.load({str(run.folder.path)!r})\n"
        "run.scorecard, run.top_examples(0), run.U, run.structure(0), run.curve(0), run.report()\n"
        "from eigen_lightning.targets import Network\n"
        "run.direction(0)._repr_html_(), run.plot_structure()\n"
        "from tests.api.digits import digits, trained_cnn\n"
        "images, labels = digits()\n"
        f"run = el.load({str(run.folder.path)!r}, trained_cnn(images, labels))\n"
        "run.d2D(images[:8]), run.intervene(0, images[:8], images[8:16], controls=1)\n"
        "with run.perturbed(0, 0.1) as target: target.network(images[:2])\n"
        "assert 'lightning' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_figures_show_what_the_folder_holds(run: el.Run) -> None:
    pytest.importorskip("matplotlib")
    image = run.plot_interference().axes[0].images[0].get_array()
    assert image.shape == (len(run), len(run))
    assert image.diagonal().tolist() == pytest.approx([1.0] * len(run), rel=1e-5)
    curve, *controls = run.plot_steepness().axes[0].lines
    assert curve.get_ydata()[-1] == pytest.approx(run.scorecard["learned"]["steepness"], rel=0.05)
    assert controls[0].get_ydata()[0] == run.scorecard["random"]["steepness"]
    responses = run.plot_responses(0).axes[0].lines
    assert responses[1].get_ydata().tolist() == run.curve(0).learned.top.tolist()
    heights = sum(bar.get_height() for bars in run.plot_structure().axes[0].containers for bar in bars)
    assert heights == pytest.approx(len(run))


def test_a_direction_shows_its_card_alone(run: el.Run) -> None:
    page = html.unescape(run.direction(2)._repr_html_())
    assert page.count("<article") == 1
    assert "Direction 2" in page
    assert "Direction 1<" not in page


def test_ones_own_inputs_are_intervened_on(run: el.Run) -> None:
    images = digits()[0]
    values = run.d2D(images)[0]
    found = run.intervene(0, images[values.topk(20).indices], images[:64], controls=4)
    half = len(found.deltas) // 2
    both = (found.learned.top[half] + found.learned.top[half - 1]) / 2
    assert both == pytest.approx(float(found.predicted[half]), rel=0.05)
    assert found.selectivity > found.control_selectivity


def test_public_names_are_there() -> None:
    assert set(el.__all__) <= set(dir(el))
    for name in set(el.__all__) - {"study"}:
        assert getattr(el, name).__name__ == name
    with pytest.raises(AttributeError, match="decompose"):
        _ = el.decompose  # type: ignore[attr-defined]


class Squared(Divergence):
    def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
        return (outputs - reference).square().sum(-1)


def test_a_divergence_of_ones_own_is_given_again(tmp_path: Path) -> None:
    model, inputs = nn.Linear(3, 2), torch.randn(40, 3)
    made = quickly(model, inputs, tmp_path, divergence=Squared())
    with pytest.raises(UserError, match="Squared"):
        el.load(tmp_path, model=model).d2D(inputs)
    assert torch.equal(el.load(tmp_path, model=model, divergence=Squared()).d2D(inputs), made.d2D(inputs))


def test_quiet_by_default_where_there_is_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    levels = logging.getLogger("lightning.pytorch").level
    quickly(nn.Linear(3, 2), torch.randn(40, 3), tmp_path)
    out, error = capfd.readouterr()
    assert out == ""
    assert error == ""
    assert logging.getLogger("lightning.pytorch").level == levels


def test_resumed_is_as_if_never_stopped(tmp_path: Path) -> None:
    model, inputs = nn.Linear(3, 2), torch.randn(200, 3)
    whole = quickly(model, inputs, tmp_path / "whole", max_epochs=2)
    quickly(model, inputs, tmp_path / "parts", max_epochs=1)
    parts = quickly(model, inputs, tmp_path / "parts", max_epochs=2, resume=True)
    assert torch.equal(whole.U, parts.U)


def test_a_recipe_is_json(run: el.Run) -> None:
    recipe = json.loads(run.folder.manifest.read_text())["target"]["recipe"]
    assert recipe["class_path"] == "eigen_lightning.targets.network.Network"
    assert recipe["missing"] == ["module"]
    assert recipe["init_args"]["parameters"] == ["3.*"]


def test_a_run_of_the_packages_own_parts_is_repeated_by_its_configuration(tmp_path: Path) -> None:
    target, data = el.TMSTarget(features=5, hidden=2), el.TMS(batch_size=256, samples_per_epoch=1024)
    made = el.fit(target, data, n_directions=5, run_dir=tmp_path / "one", max_epochs=1, report=False, exponent=2.0)
    again = tmp_path / "again"
    main(["fit", "--config", str(made.folder.config), "--run_dir", str(again), "--quiet", "--report", "false"])
    assert torch.equal(el.load(again).U, made.U)
    assert el.load(again).manifest["data_fingerprint"] == made.manifest["data_fingerprint"]
