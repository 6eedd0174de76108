"""The TransformerLens name of a parameter is the name of that very parameter."""

import pytest
import torch
from torch import nn

from eigen_lightning.targets import Transformer
from eigen_lightning.targets.bridge_parameters import slots
from tests.targets.conftest import ARCHITECTURES, save_tiny_model


@pytest.fixture(params=ARCHITECTURES)
def target(request, tiny_folder, tmp_path) -> Transformer:
    target = Transformer(str(tiny_folder(request.param)), ["*"])
    target.load(tmp_path)
    return target


def tied(target: Transformer) -> set[str]:
    return {"unembed.W_U"} if target.network.original_model.config.tie_word_embeddings else set()


def test_moving_a_parameter_moves_the_transformer_lens_view_of_its_name_alone(target, tokens):
    by_path = dict(target.network.named_parameters())
    before = {name: view.clone() for name, view in target.network.tl_named_parameters()}
    logits = target.outputs(target.weights, tokens)
    for name, path in target.parameter_names().items():
        kept = by_path[path].data
        by_path[path].data = kept + 0.1 * torch.randn_like(kept)
        moved = {key for key, view in target.network.tl_named_parameters() if not torch.equal(view, before[key])}
        assert moved - tied(target) == {name}
        # GPT-2's positions are not in its keys: one vector added to all of them leaves every softmax as it was.
        matters = not (name.endswith("b_K") and target.network.original_model.config.model_type == "gpt2")
        assert torch.allclose(target.outputs(target.weights, tokens), logits, atol=1e-5) != matters
        by_path[path].data = kept


def test_every_transformer_lens_parameter_that_the_model_has_is_named_and_no_other(target):
    # No parameter of the tiny models is zero; what TransformerLens fills in for one that is absent is.
    real = {name for name, view in target.network.tl_named_parameters() if view.any()}
    assert set(target.parameter_names()) == real - tied(target)


def test_names_come_in_the_order_of_the_network(target):
    order = [path for path, _ in target.network.named_parameters()]
    paths = list(target.parameter_names().values())
    assert paths == sorted(paths, key=order.index)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_the_fused_projection_that_the_bridge_no_longer_reads_is_not_offered(architecture, tiny_folder, tmp_path):
    target = Transformer(str(tiny_folder(architecture)), ["blocks.1.attn.*"])
    target.load(tmp_path)
    assert not [path for path in target.parameter_names().values() if "c_attn" in path or "query_key_value" in path]
    assert target.weights["blocks.1.attn.W_K"].shape == (16, 16)


def test_grouped_keys_are_the_model_s_own_and_not_the_expanded_view(tiny_folder, tmp_path):
    target = Transformer(str(tiny_folder("llama")), ["blocks.1.attn.W_K"])
    target.load(tmp_path)
    assert dict(target.network.tl_named_parameters())["blocks.1.attn.W_K"].shape == (4, 16, 4)
    assert target.space.shapes == ((2 * 4, 16),)


def test_parameters_that_transformer_lens_does_not_name_keep_their_own_path(tmp_path):
    folder = save_tiny_model(tmp_path / "mixtral", "mixtral", num_local_experts=3)
    target = Transformer(str(folder), ["model.layers.1.mlp.*"])
    target.load(tmp_path)
    assert target.space.names == (
        "model.layers.1.mlp.gate.weight",
        "model.layers.1.mlp.experts.gate_up_proj",
        "model.layers.1.mlp.experts.down_proj",
    )


def test_slots_are_every_place_once_however_many_paths_lead_there():
    inner = nn.Linear(2, 2, bias=False)
    model = nn.Module()
    model.first, model.again, model.tied = inner, inner, nn.Linear(2, 2, bias=False)
    model.tied.weight = inner.weight
    assert slots(model) == {"first.weight": ("first.weight", "tied.weight")}
