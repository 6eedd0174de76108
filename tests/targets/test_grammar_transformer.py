"""The grammar's transformer: trained, kept as a folder that transformers loads, refused where it is not good enough."""

from pathlib import Path

import pytest
import torch

from eigen_lightning.data import Grammar
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import GrammarTransformer
from eigen_lightning.targets import grammar as module


@pytest.fixture
def little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[GrammarTransformer, RunFolder]:
    monkeypatch.setattr(module, "LARGEST_GAP", 9.0)
    monkeypatch.setattr(module, "TRAINING_WINDOWS", 200)
    target, run = GrammarTransformer(d_model=16, steps=20), RunFolder(tmp_path)
    target.prepare(run, 0)
    target.load(run)
    return target, run


def test_the_folder_is_a_model_that_transformers_loads(little: tuple[GrammarTransformer, RunFolder]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target, run = little
    data = Grammar(n_sequences=20, n_heldout_sequences=10, seed=0)
    data.for_target = target
    data.setup()
    tokens = data.train_set.batch(0, torch.arange(4)).inputs
    plain = AutoModelForCausalLM.from_pretrained(run.target_model)(input_ids=tokens).logits
    torch.testing.assert_close(target.outputs(target.weights, tokens), plain, rtol=1e-4, atol=1e-4)
    words = AutoTokenizer.from_pretrained(run.target_model)
    assert words.decode(tokens[0]) == "".join(data.train_set.tokens(0))  # type: ignore[attr-defined]
    assert target.space.names == ("blocks.0.mlp.W_in",)
    assert {"loss", "grammar", "model_type"} <= set(target.facts(run))


def test_it_is_trained_once_and_other_shapes_are_refused(little: tuple[GrammarTransformer, RunFolder]) -> None:
    target, run = little
    before = run.target.read_bytes()
    again = GrammarTransformer(d_model=16, steps=20)
    again.prepare(run, 1)
    again.load(run)
    assert run.target.read_bytes() == before
    assert again.fingerprint() == target.fingerprint()
    with pytest.raises(UserError, match="holds another"):
        GrammarTransformer(d_model=32).load(run)


def test_a_network_far_from_the_grammar_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRAINING_WINDOWS", 200)
    with pytest.raises(UserError, match=r"within 0.08 nats .* raise steps \(3\)"):
        GrammarTransformer(d_model=16, steps=3).prepare(RunFolder(tmp_path), 0)


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"d_model": 30}, {"steps": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="expected"):
        GrammarTransformer(**wrong)
