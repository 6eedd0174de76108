"""Directions read through the vocabulary, against the published weights written out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import eigen_lightning as el
from eigen_lightning.analysis.vocabulary import leading_pair, to_json, vocabulary_of
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets.vocabulary import VocabularyReader
from tests.api.written_runs import unit_rows, write_run
from tests.targets.conftest import VOCABULARY


def loaded(folder: Path) -> tuple[el.Transformer, VocabularyReader, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    target = el.Transformer(str(folder), ["blocks.*.attn.W_*", "blocks.*.mlp.W_*"], "float64")
    target.load(RunFolder(folder))
    weights = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).state_dict()
    return target, VocabularyReader(target), weights


def z(scores: torch.Tensor) -> torch.Tensor:
    return (scores - scores.mean()) / scores.std()


@pytest.fixture
def llama(tiny_folder: Callable[[str], Path]) -> tuple[el.Transformer, VocabularyReader, dict[str, Any]]:
    return loaded(tiny_folder("llama"))


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


@pytest.mark.parametrize(("leaf", "n_heads", "head"), [("W_Q", 4, 3), ("W_K", 2, 1)])
def test_pairs_are_those_whose_attention_score_rises_most(llama: Any, leaf: str, n_heads: int, head: int) -> None:
    # Grouped keys: four query heads of four dimensions share two key heads.
    target, reader, weights = llama
    layer = "model.layers.1."
    residual = rms(weights["model.embed_tokens.weight"], weights[f"{layer}input_layernorm.weight"])
    a, b = torch.randn(4, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
    moved = torch.zeros(n_heads, 4, 16, dtype=torch.float64)
    moved[head] = torch.outer(a, b)
    query = weights[f"{layer}self_attn.q_proj.weight"].view(4, 4, 16)
    key = weights[f"{layer}self_attn.k_proj.weight"].view(2, 4, 16)
    if leaf == "W_Q":
        scores = (residual @ moved[3].T) @ (residual @ key[1].T).T
    else:
        scores = (residual @ query[2:].mean(0).T) @ (residual @ moved[1].T).T
    name = f"blocks.1.attn.{leaf}"
    [reading] = vocabulary_of(reader, {name: moved.flatten(0, 1)}, str, target.heads(), tokens=VOCABULARY)
    assert (reading.what, reading.head, reading.rank_one) == ("attends", head, pytest.approx(1.0))
    # The scores are a product of one factor of the query and one of the key.
    left, _, right = torch.linalg.svd(scores)
    for side, vector in ((reading.side, left[:, 0]), (reading.keys, right[0])):
        got = torch.tensor([dict(side.tokens)[str(t)] for t in range(VOCABULARY)], dtype=torch.float64)
        torch.testing.assert_close(got.abs(), z(vector).abs(), rtol=1e-5, atol=1e-6)
    top = reading.pairs[0]
    centered = z(left[:, 0])[int(top[0])] * z(right[0])[int(top[1])]
    assert centered == pytest.approx(top[2], rel=1e-5)


def test_the_writing_side_promotes_what_the_unembedding_says(llama: Any) -> None:
    target, reader, weights = llama
    a, b = torch.randn(16, dtype=torch.float64), torch.randn(24, dtype=torch.float64)
    name = "blocks.0.mlp.W_out"
    [reading] = vocabulary_of(reader, {name: torch.outer(a, b)}, str, target.heads(), tokens=VOCABULARY)
    expected = z(weights["lm_head.weight"] @ rms(a, weights["model.norm.weight"]))
    got = torch.tensor([dict(reading.side.tokens)[str(t)] for t in range(VOCABULARY)], dtype=torch.float64)
    sign = torch.sign(got @ expected)
    torch.testing.assert_close(got, sign * expected, rtol=1e-5, atol=1e-6)
    assert reading.side.sharpness == pytest.approx(float(expected.abs().max()), rel=1e-5)
    assert reading.side.tokens[0][1] == pytest.approx(reading.side.sharpness)


def test_transposed_weights_are_read_on_the_right_side(tiny_folder: Callable[[str], Path]) -> None:
    # GPT-2 stores W_in and W_O as [in, out]; W_O is square, so that its shape does not tell.
    target, reader, weights = loaded(tiny_folder("gpt2"))
    a, b = torch.randn(16, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
    parts = {"blocks.1.attn.W_O": torch.outer(b, a)}
    [reading] = vocabulary_of(reader, parts, str, target.heads(), tokens=VOCABULARY)
    norm = torch.nn.functional.layer_norm(a, (16,), weights["transformer.ln_f.weight"])
    expected = z(weights["transformer.wte.weight"] @ norm)
    got = torch.tensor([dict(reading.side.tokens)[str(t)] for t in range(VOCABULARY)], dtype=torch.float64)
    torch.testing.assert_close(got.abs(), expected.abs(), rtol=1e-5, atol=1e-5)


def test_a_planted_token_is_sharper_than_chance_and_a_random_direction_is_not(llama: Any) -> None:
    _, reader, weights = llama
    residual = rms(weights["model.embed_tokens.weight"], weights["model.layers.1.input_layernorm.weight"])
    planted = torch.linalg.lstsq(residual, torch.eye(VOCABULARY, dtype=torch.float64)[17]).solution
    [reading] = vocabulary_of(reader, {"blocks.1.attn.W_V": torch.outer(torch.randn(8).double(), planted)}, str, {})
    assert reading.what == "reads"
    assert reading.side.tokens[0][0] == "17"
    assert reading.side.sharpness > 1.4 * reading.side.control
    random = [vocabulary_of(reader, {"blocks.1.attn.W_V": torch.randn(8, 16).double()}, str, {})[0] for _ in range(20)]
    ratio = torch.tensor([each.side.sharpness / each.side.control for each in random]).mean()
    assert abs(ratio - 1) < 0.1


def test_the_leading_pair_is_that_of_the_full_decomposition() -> None:
    for shape in ((5, 9), (9, 5), (1, 4)):
        matrix = torch.randn(shape, dtype=torch.float64)
        write, size, read = leading_pair(matrix)
        u, s, vh = torch.linalg.svd(matrix)
        torch.testing.assert_close(size * torch.outer(write, read), s[0] * torch.outer(u[:, 0], vh[0]))


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "gpt_neox", "llama", "gemma2"])
def test_every_matrix_of_every_architecture_is_read(
    architecture: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    target, _, _ = loaded(tiny_folder(architecture))
    write_run(tmp_path / "run", target, unit_rows(2, target))
    run = el.load(tmp_path / "run", model=target)
    readings = run.vocabulary(1, matrices=99, tokens=3)
    assert {reading.parameter for reading in readings} == set(target.space.names)
    assert sum(reading.share for reading in readings) == pytest.approx(1.0, abs=1e-5)
    assert [reading.share for reading in readings] == sorted((each.share for each in readings), reverse=True)
    assert to_json(readings)[0]["side"]["tokens"][0][0].startswith("w")


def test_a_network_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    target = el.Network(torch.nn.Linear(2, 2))
    target.load(RunFolder(tmp_path))
    write_run(tmp_path / "run", target, unit_rows(1, target), "MSE")
    with pytest.raises(UserError, match="has no vocabulary"):
        el.load(tmp_path / "run", model=target).vocabulary(0)
