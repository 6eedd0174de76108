"""A decomposition as a Hugging Face repository: written, uploaded, loaded again, refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from torch import nn

import eigen_lightning as el
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import Transformer
from tests.api.written_runs import unit_rows, write_run
from tests.targets.conftest import save_tiny_model

FIGURES = {"steepness": 2.5, "interference": 0.01}


@pytest.fixture
def run(tmp_path: Path) -> el.Run:
    """Of a small module, in a folder that is no longer there when the shared one is read."""
    target = el.Network(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), ["0.*"])
    target.load(RunFolder(tmp_path))
    folder = write_run(tmp_path / "run", target, unit_rows(5, target), "MSE")
    folder.write_json(folder.scorecard, {"learned": FIGURES, "random": {"steepness": 0.125}})
    folder.write_top_examples([{"direction": k, "examples": [{"value": 1.0}]} for k in range(5)])
    return el.load(folder.path, model=target.module)


def test_a_shared_run_is_the_run(run: el.Run, tmp_path: Path) -> None:
    inputs = torch.randn(7, 3)
    expected = run.d2D(inputs)
    shared = run.save_pretrained(tmp_path / "shared")
    shutil.rmtree(run.folder.path)
    assert {path.name for path in shared.iterdir()} >= {"config.json", "model.safetensors", "README.md"}
    again = el.load(shared, model=run.target.module)
    assert torch.equal(again.U, run.U)
    assert torch.equal(again.d2D(inputs), expected)
    assert again.shapes == run.shapes
    assert again.scorecard["random"]["steepness"] == 0.125
    assert again.top_examples(3)[0]["value"] == 1.0
    assert again.save_pretrained(tmp_path / "copy").joinpath("model.safetensors").exists()


def test_nothing_of_the_machine_is_shared(run: el.Run, tmp_path: Path) -> None:
    shared = run.save_pretrained(tmp_path / "shared")
    assert not any(b"someone" in path.read_bytes() for path in shared.iterdir())


def test_a_language_model_of_a_folder_is_shared_by_its_name_and_given_again(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "someone" / "tiny", "gpt2")
    target = Transformer(str(model), ("blocks.1.attn.W_K",))
    target.load(RunFolder(tmp_path))
    run = el.load(write_run(tmp_path / "run", target, unit_rows(3, target), "KL").path)
    inputs = torch.arange(12).reshape(2, 6)
    expected = run.d2D(inputs)
    shared = run.save_pretrained(tmp_path / "shared")
    assert not any(b"someone" in path.read_bytes() for path in shared.iterdir())
    assert json.loads((shared / "config.json").read_text())["target"]["name"] == "tiny"
    with pytest.raises(UserError, match=r"the model that was decomposed, a tiny, .*load\(path, model=...\)"):
        el.load(shared).d2D(inputs)
    assert torch.equal(el.load(shared, model=model).d2D(inputs), expected)
    assert torch.equal(el.load(shared, model=str(model)).d2D(inputs), expected)
    with pytest.raises(UserError, match=r"expected the target that was decomposed .* got another"):
        el.load(shared, model=save_tiny_model(tmp_path / "other", "gpt2", initializer_range=0.1)).d2D(inputs)


def test_a_name_is_of_language_models_alone(run: el.Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a Network, got the name of a language model, gpt2"):
        el.load(run.save_pretrained(tmp_path / "shared"), model="gpt2")


def test_the_card_shows_the_scorecard_beside_its_controls(run: el.Run, tmp_path: Path) -> None:
    card = ModelCard.load(run.save_pretrained(tmp_path / "shared") / "README.md")
    assert card.data.library_name == "eigen-lightning"
    assert "| | learned | random |" in card.text
    assert "| steepness | 2.5 | 0.125 |" in card.text
    assert "5 directions in the parameters of Sequential" in card.text


def test_another_model_is_refused(run: el.Run, tmp_path: Path) -> None:
    shared = run.save_pretrained(tmp_path / "shared")
    other = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(UserError, match="expected the target that was decomposed"):
        el.load(shared, model=other).d2D(torch.randn(2, 3))


def test_an_earlier_export_leaves_no_result_behind(run: el.Run, tmp_path: Path) -> None:
    shared = run.save_pretrained(tmp_path / "shared")
    run.folder.scorecard.unlink()
    run.save_pretrained(shared)
    with pytest.raises(UserError, match="scorecard"):
        el.load(shared).scorecard  # noqa: B018
    assert "not judged" in (shared / "README.md").read_text()


def test_a_run_is_not_shared_over_itself(run: el.Run) -> None:
    with pytest.raises(UserError, match="a folder of its own"):
        run.save_pretrained(run.folder.path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"library_name": "diffusers"}, "another library"), ({"format": 99}, "format 99.*upgrade")],
)
def test_what_cannot_be_read_is_refused(facts: dict[str, Any], message: str, run: el.Run, tmp_path: Path) -> None:
    config = run.save_pretrained(tmp_path / "shared") / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **facts}))
    with pytest.raises(UserError, match=message):
        el.load(config.parent)


def test_pushing_uploads_what_loads_again(run: el.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        def __init__(self, token: str | None) -> None:
            assert token == "secret"

        def create_repo(self, name: str, private: bool | None, exist_ok: bool) -> Any:
            assert (private, exist_ok) == (True, True)
            return SimpleNamespace(repo_id=name)

        def upload_folder(self, repo_id: str, folder_path: Path) -> Any:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert run.push_to_hub("me/mine", private=True, token="secret") == "https://hub/me/mine"
    assert 'el.load("me/mine")' in (tmp_path / "me/mine/README.md").read_text()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: str(tmp_path / name))
    assert torch.equal(el.load("me/mine").U, run.U)


def test_a_name_that_leads_nowhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(name: str, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("out of reach")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"Hub name of a decomposition, got 'me/none'.*out of reach"):
        el.load("me/none")


def test_loading_needs_neither_lightning_nor_training_data(tmp_path: Path, trained_tms: Any, toy_folder: Path) -> None:
    folder = write_run(tmp_path / "run", trained_tms, unit_rows(3, trained_tms), "MSE")
    shutil.copyfile(toy_folder / "tms" / "target.safetensors", folder.target)
    shared = el.load(folder.path).save_pretrained(tmp_path / "shared")
    shutil.rmtree(folder.path)
    code = (
        "import sys, torch, eigen_lightning as el\n"
        f"run = el.load({str(shared)!r})\n"
        "assert run.d2D(torch.eye(5)).shape == (3, 5)\n"
        "assert not {'lightning', 'pytorch_lightning', 'datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
