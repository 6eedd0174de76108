"""Scaled rotary embeddings and sliding windows: logits as transformers has them, tangents as finite differences."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import jvp

from eigen_lightning.targets import Transformer
from tests.targets.conftest import save_tiny_model

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, linear scaling": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    "llama, dynamic scaling": (
        "llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "mistral, shorter window": ("mistral", {"sliding_window": 3}),
    "mistral, longer window": ("mistral", {"sliding_window": 64}),
    "qwen2, shorter window": ("qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0}),
    "qwen2, no window": ("qwen2", {}),
    "gemma2, shorter window": ("gemma2", {"sliding_window": 3, "query_pre_attn_scalar": 4}),
    "gemma2, longer window": ("gemma2", {"sliding_window": 64, "query_pre_attn_scalar": 4}),
}  # fmt: skip


@pytest.fixture(params=VARIANTS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    model_type, settings = VARIANTS[request.param]
    return save_tiny_model(tmp_path, model_type, **settings)


def test_logits_are_the_model_s_own_and_tangents_finite_differences(folder: Path, tokens: torch.Tensor) -> None:
    from transformers import AutoModelForCausalLM

    target = Transformer(str(folder), ["blocks.0.attn.W_K", "blocks.1.attn.W_Q", "blocks.1.mlp.W_in"], dtype="float64")
    target.load(folder)
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64).eval()
    outputs = target.outputs(target.weights, tokens)
    # Rotary embeddings and softmax are taken in float32 whatever the weights are.
    torch.testing.assert_close(outputs, reference(tokens).logits.to(outputs), rtol=1e-5, atol=1e-5)
    generator = torch.Generator().manual_seed(2)
    space, origin = target.space, target.space.flatten(target.weights)
    u = torch.randn(len(origin), generator=generator, dtype=torch.float64)
    along = jvp(lambda w: target.outputs(space.unflatten(w), tokens), (origin,), (u,))[1]
    plus, minus = (target.outputs(space.unflatten(origin + sign * 1e-5 * u), tokens) for sign in (1, -1))
    torch.testing.assert_close(along, (plus - minus) / 2e-5, rtol=1e-6, atol=1e-6 * float(along.abs().max()))


def test_a_shorter_window_hides_what_lies_before_it(tmp_path: Path, tokens: torch.Tensor) -> None:
    """So that the variants above differ: with a window of two, two layers see two tokens back and no further."""
    torch.set_num_threads(1)
    other = tokens.clone()
    other[:, 0] = (other[:, 0] + 1) % 61
    differs = {}
    for window in (2, 64):
        target = Transformer(str(save_tiny_model(tmp_path / str(window), "mistral", sliding_window=window)), ["*"])
        target.load(tmp_path)
        change = (target.outputs(target.weights, tokens) - target.outputs(target.weights, other)).abs().amax((0, 2))
        differs[window] = (change > 0).tolist()
    assert differs[64] == [True] * 7
    assert differs[2] == [True] * 3 + [False] * 4
