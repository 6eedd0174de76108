"""What is no model is refused in one line; what is one loads without noise or network."""

import json
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from eigen_lightning.curvature import KL, Linearizer
from eigen_lightning.run.errors import UserError
from eigen_lightning.targets import Transformer
from tests.targets.conftest import save_tiny_model


def refusal(name, **settings) -> str:
    with pytest.raises(UserError) as caught:
        Transformer(str(name), ["blocks.1.attn.W_K"], **settings).load(None)
    assert "\n" not in str(caught.value)
    assert str(name) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder("llama"), tmp_path / "model")


def edit_config(folder, **settings) -> None:
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, **settings}))


def test_a_folder_that_is_missing(tmp_path):
    assert "no such folder" in refusal(tmp_path / "absent")
    assert "no such folder" in refusal("./absent")


def test_a_file(folder):
    assert "give the folder that holds config.json" in refusal(folder / "config.json")


@pytest.mark.parametrize(
    ("removed", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights"), ("tokenizer*", "with a tokenizer")],
)
def test_a_folder_that_lacks_a_part(folder, removed, message):
    for path in folder.glob(removed):
        path.unlink()
    assert message in refusal(folder)


def test_weights_that_do_not_fill_the_model(folder):
    edit_config(folder, num_hidden_layers=3)
    assert "lack 9, such as model.layers.2" in refusal(folder)


def test_weights_of_other_shapes(folder):
    edit_config(folder, hidden_size=8)
    assert "expected a causal language model" in refusal(folder)


def test_weights_that_are_no_weights(folder):
    (folder / "model.safetensors").write_bytes(b"no weights at all, just text")
    assert "header" in refusal(folder)


@pytest.mark.parametrize("config", ["{", "{}", json.dumps({"model_type": "perceptron", "architectures": ["None"]})])
def test_a_configuration_that_says_nothing(folder, config):
    (folder / "config.json").write_text(config)
    assert "expected a model" in refusal(folder)


def test_code_shipped_with_the_weights_is_not_run(folder):
    (folder / "code.py").write_text("raise SystemExit('ran')")
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.Own"})
    assert "custom code" in refusal(folder)


def test_an_architecture_that_transformer_lens_does_not_know(tmp_path):
    settings = {"is_decoder": True, "attention_type": "original_full"}
    assert "that transformer_lens can load" in refusal(save_tiny_model(tmp_path / "m", "big_bird", **settings))


def test_an_architecture_that_torch_func_cannot_take_is_refused(tmp_path):
    """Bloom's activation is an autograd.Function of the old form."""
    target = Transformer(str(save_tiny_model(tmp_path, "bloom")), ["blocks.1.attn.W_O"])
    target.load(None)
    with pytest.raises(UserError, match=r"expected a network that torch\.func can differentiate"):
        Linearizer.prepare(target, KL(), torch.arange(12).view(2, 6))


def test_a_hub_name_out_of_reach_says_how_to_go_on_without():
    assert "give a local folder's path" in refusal("nobody/no-such-model")


def test_a_local_folder_loads_without_network_or_noise(tiny_folder, monkeypatch, capfd):
    def refuse(*args):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    target = Transformer(str(tiny_folder("llama")), ["blocks.0.attn.W_K"])
    target.load(None)
    assert target.tokenizer is not None
    assert capfd.readouterr() == ("", "")
    assert not any(parameter.requires_grad for parameter in target.network.parameters())
    assert target.dtype == torch.float32


def test_nothing_heavy_is_imported_before_a_model_is_loaded():
    code = "import sys, eigen_lightning.targets as t; t.Transformer(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    # torchmetrics, which comes with lightning, imports a part of transformers itself.
    assert not {"transformer_lens", "datasets", "transformers.models.gpt_neo.modeling_gpt_neo"} & set(modules)
