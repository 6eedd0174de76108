"""A language model as a target: its outputs, hidden states, readout, tangents, and what it refuses."""

import json
import shutil

import pytest
import torch
from torch.func import jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from eigen_lightning.run.errors import UserError
from eigen_lightning.targets import Transformer
from eigen_lightning.targets.readout import why_no_readout
from tests.targets.conftest import ARCHITECTURES, VOCABULARY, save_tiny_model

W_K = "blocks.1.attn.W_K"


def loaded(folder, *parameters: str, dtype: str = "float64") -> Transformer:
    target = Transformer(str(folder), parameters or (W_K,), dtype=dtype)
    target.load(folder)
    return target


def direction_in(target: Transformer) -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(tensor) for name, tensor in target.weights.items()}


def moved(target: Transformer, direction: dict[str, torch.Tensor], step: float) -> dict[str, torch.Tensor]:
    return {name: tensor + step * direction[name] for name, tensor in target.weights.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_outputs_are_the_logits_of_the_model_itself(architecture, tiny_folder, tokens):
    from transformers import AutoModelForCausalLM

    folder = tiny_folder(architecture)
    expected = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()(tokens).logits
    target = loaded(folder, dtype="float32")
    torch.testing.assert_close(target.outputs(target.weights, tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_weights_change_the_outputs_and_leave_the_network_as_it_was(architecture, tiny_folder, tokens):
    target = loaded(tiny_folder(architecture), "*")
    before = dict(target.network.named_parameters())
    logits = target.outputs(target.weights, tokens)
    other = moved(target, direction_in(target), 0.1)
    assert not torch.allclose(target.outputs(other, tokens), logits)
    assert not torch.allclose(target.hidden(other, tokens), target.hidden(target.weights, tokens))
    after = dict(target.network.named_parameters())
    assert all(after[path] is parameter for path, parameter in before.items())
    assert torch.equal(target.outputs(target.weights, tokens), logits)


def test_tied_embeddings_move_together(tiny_folder, tokens):
    target = loaded(tiny_folder("gpt2"), "embed.W_E")
    other = moved(target, direction_in(target), 0.1)
    got = target.outputs(other, tokens)
    torch.testing.assert_close(got, target.hidden(other, tokens) @ other["embed.W_E"].T)
    assert target.readout is None
    assert "tied" in target.readout_reason


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_random_network_is_as_before_training_and_its_attention_is_not_saturated(architecture, tiny_folder, tokens):
    target = loaded(tiny_folder(architecture))
    before = target.outputs(target.weights, tokens)
    random = target.randomized(0)
    assert torch.equal(target.outputs(target.weights, tokens), before)
    matrices = [parameter for parameter in random.network.parameters() if parameter.ndim > 1]
    assert all(abs(float(matrix.std()) / 0.02 - 1) < 0.5 for matrix in matrices)
    outputs = random.outputs(random.weights, tokens)
    assert 0 < float(outputs.std()) < float(before.std())
    again = target.randomized(0)
    assert torch.equal(again.outputs(again.weights, tokens), outputs)
    moved = {name: weight + 0.1 for name, weight in random.weights.items()}
    assert not torch.equal(random.outputs(moved, tokens), outputs)


def test_dropout_is_off_and_the_outputs_repeat(tiny_folder, tokens):
    target = loaded(tiny_folder("gpt2"))
    assert torch.equal(target.outputs(target.weights, tokens), target.outputs(target.weights, tokens))
    assert not target.network.original_model.training


@pytest.mark.parametrize(("dtype", "step", "tolerance"), [("float64", 1e-5, 1e-7), ("float32", 1e-2, 2e-2)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tangents_are_finite_differences(architecture, dtype, step, tolerance, tiny_folder, tokens):
    # In float64 this fails where the model rounds to float32 anywhere inside: 1e-7 / 1e-5 is a hundredth.
    target = loaded(tiny_folder(architecture), dtype=dtype)
    direction = direction_in(target)
    for function in (target.outputs, target.hidden):
        tangent = jvp(lambda w, f=function: f(w, tokens), (target.weights,), (direction,))[1]
        ahead, behind = (function(moved(target, direction, sign * step), tokens) for sign in (1, -1))
        assert (tangent - (ahead - behind) / (2 * step)).norm() < tolerance * tangent.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_many_tangents_at_once_trace_and_equal_one_by_one(architecture, tiny_folder, tokens):
    target = loaded(tiny_folder(architecture))
    vectors = torch.randn(3, target.space.size, dtype=torch.float64)

    def tangents(vectors):
        def one(vector):
            return jvp(lambda w: target.hidden(w, tokens), (target.weights,), (target.space.unflatten(vector),))[1]

        return vmap(one)(vectors)

    at_once = tangents(vectors)
    singly = torch.cat([tangents(vector[None]) for vector in vectors])
    torch.testing.assert_close(at_once, singly)
    torch.testing.assert_close(make_fx(tangents)(vectors)(-vectors), -at_once)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["blocks.1.attn.W_Q", W_K])
def test_the_first_position_attends_to_itself_alone(architecture, name, tiny_folder, tokens):
    target = loaded(tiny_folder(architecture), name)
    tangent = jvp(lambda w: target.outputs(w, tokens), (target.weights,), (direction_in(target),))[1]
    assert tangent[:, 0].abs().max() == 0
    assert tangent[:, 1:].abs().amax(-1).min() > 0


def test_one_vector_added_to_every_key_changes_nothing(tiny_folder, tokens):
    target = loaded(tiny_folder("gpt2"), "blocks.1.attn.b_K")
    direction = direction_in(target)
    logits, tangent = jvp(lambda w: target.outputs(w, tokens), (target.weights,), (direction,))
    assert tangent.abs().max() < 1e-12
    torch.testing.assert_close(target.outputs(moved(target, direction, 1.0), tokens), logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_readout_maps_hidden_states_to_outputs(architecture, tiny_folder, tokens):
    target = loaded(tiny_folder(architecture))
    assert target.readout_reason is None
    hidden = target.hidden(target.weights, tokens)
    torch.testing.assert_close(target.readout(hidden), target.outputs(target.weights, tokens))
    assert target.readout.weight.shape == (VOCABULARY, hidden.shape[-1])


@pytest.mark.parametrize(
    ("asset", "parameter"), [("gpt_neo_folder", "blocks.4.attn.W_K"), ("stories260k_folder", "blocks.2.mlp.W_gate")]
)
def test_the_readout_maps_hidden_states_to_outputs_on_trained_models(asset, parameter, request):
    target = loaded(request.getfixturevalue(asset), parameter, dtype="float32")
    tokens = torch.randint(512, (2, 16))
    other = moved(target, direction_in(target), 0.1)
    torch.testing.assert_close(target.readout(target.hidden(other, tokens)), target.outputs(other, tokens))


def test_hidden_states_do_not_cost_the_unembedding(tiny_folder, tokens):
    target = loaded(tiny_folder("gpt_neo"))

    def refuse(module, inputs):
        raise AssertionError("the unembedding was computed")

    target.network.unembed.register_forward_pre_hook(refuse)
    target.hidden(target.weights, tokens)
    with pytest.raises(AssertionError, match="the unembedding"):
        target.outputs(target.weights, tokens)


def test_a_bias_is_part_of_the_readout_only_where_the_model_has_one(tmp_path, tiny_folder, tokens):
    assert loaded(tiny_folder("gpt2")).readout.bias is None
    phi = loaded(save_tiny_model(tmp_path / "phi", "phi", num_key_value_heads=4))
    assert phi.readout.bias.abs().max() > 0
    torch.testing.assert_close(phi.readout(phi.hidden(phi.weights, tokens)), phi.outputs(phi.weights, tokens))


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [("gemma2", {"final_logit_softcapping": 30.0}), ("granite", {"logits_scaling": 1.5}), ("cohere", {})],
)
def test_no_readout_where_logits_are_capped_or_scaled(model_type, settings, tmp_path):
    target = loaded(save_tiny_model(tmp_path / model_type, model_type, **settings), dtype="float32")
    assert target.readout is None
    assert "soft-cap" in target.readout_reason
    assert target.readout_reason in target.facts(tmp_path)["readout"]


def test_no_readout_where_a_chosen_parameter_lies_in_it(tiny_folder):
    target = loaded(tiny_folder("gpt_neox"), W_K, "unembed.W_U")
    assert target.readout is None
    assert "lies in the readout" in target.readout_reason


def test_no_readout_where_the_unembedding_is_given_something_else_than_the_last_hidden_state(tiny_folder):
    target = loaded(tiny_folder("gpt2"))
    target.network.unembed.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    assert why_no_readout(target.network.original_model, target.weights.values()) is not None


def test_tokenizer_vocabulary_and_context_need_no_weights(tiny_folder):
    target = Transformer(str(tiny_folder("gpt2")))
    assert target.tokenizer("w3 w60")["input_ids"] == [3, 60]
    assert (target.vocabulary, target.context_limit) == (VOCABULARY, 32)
    assert not hasattr(target, "network")


def test_a_token_outside_the_vocabulary_is_refused(tiny_folder, tokens):
    target = Transformer(str(tiny_folder("gpt2")))
    target.check_inputs(tokens)
    for wrong in (VOCABULARY, -1):
        with pytest.raises(UserError, match=rf"0 to {VOCABULARY - 1}.* got {wrong};"):
            target.check_inputs(tokens.index_fill(1, torch.tensor([2]), wrong))


def test_a_window_longer_than_the_context_is_refused(tiny_folder):
    target = Transformer(str(tiny_folder("llama")))
    target.check_inputs(torch.zeros(1, 32, dtype=torch.long))
    with pytest.raises(UserError, match=r"at most 32 tokens.* got 33; lower context_length"):
        target.check_inputs(torch.zeros(1, 33, dtype=torch.long))


def test_inputs_that_are_no_windows_of_token_ids_are_refused(tiny_folder):
    with pytest.raises(UserError, match=r"\[batch, position\], got torch.float32 \[2, 3\]"):
        Transformer(str(tiny_folder("llama"))).check_inputs(torch.zeros(2, 3))


def test_the_fingerprint_is_the_model_s_and_not_the_folder_s(tiny_folder, tmp_path):
    original = loaded(tiny_folder("gpt2"))
    copy = shutil.copytree(tiny_folder("gpt2"), tmp_path / "copy")
    stored = json.loads((copy / "config.json").read_text())
    incidental = {"transformers_version": "0.0", "_name_or_path": "elsewhere", "dtype": "float16"}
    (copy / "config.json").write_text(json.dumps({**stored, **incidental}))
    elsewhere = loaded(copy)
    assert original.fingerprint() == elsewhere.fingerprint()
    elsewhere.weights[W_K].data[0, 0] += 1
    others = [elsewhere, loaded(tiny_folder("gpt2"), "blocks.0.attn.W_K"), loaded(tiny_folder("llama"))]
    longer = save_tiny_model(tmp_path / "longer", "gpt2", n_positions=40)
    others.append(loaded(longer))
    assert len({original.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_it_moves_without_a_word_and_takes_another_precision(tiny_folder, tokens, capfd):
    target = loaded(tiny_folder("gpt_neo"), dtype="float32")
    single = target.outputs(target.weights, tokens)
    assert target.to("cpu", torch.float64) is target
    double = target.outputs(target.weights, tokens)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    exact = loaded(tiny_folder("gpt_neo"))
    torch.testing.assert_close(double, exact.outputs(exact.weights, tokens), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(single.double(), double, rtol=1e-12, atol=1e-12)
    assert capfd.readouterr() == ("", "")


def test_bfloat16_weights_give_bfloat16_logits(tiny_folder, tokens):
    target = loaded(tiny_folder("llama"), dtype="bfloat16")
    logits = target.outputs(target.weights, tokens)
    assert logits.dtype == torch.bfloat16
    assert target.readout is not None
    exact = loaded(tiny_folder("llama"))
    assert (logits - exact.outputs(exact.weights, tokens)).abs().max() < 0.1 * logits.abs().max()
