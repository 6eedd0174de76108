"""What a fit on a language model leaves: directions read through the vocabulary and joined over a held-out text."""

import random
from pathlib import Path

import pytest

import eigen_lightning as el
from eigen_lightning.learning.callbacks import TopExamples
from tests.targets.conftest import VOCABULARY, save_tiny_model


@pytest.mark.slow
def test_a_fit_on_a_language_model_writes_and_shows_both(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", "llama")
    chance = random.Random(0)
    stories = [" ".join(f"w{chance.randrange(1, VOCABULARY)}" for _ in range(12)) for _ in range(60)]
    text = tmp_path / "stories.txt"
    text.write_text("\n<|endoftext|>\n".join(stories))
    data = el.TinyStories(str(text), context_length=8, n_sequences=40, batch_size=8, tokenizer=str(model), seed=0)
    target = el.Transformer(str(model), ["blocks.1.attn.W_[KV]", "blocks.1.mlp.W_out"])
    run = el.fit(
        target, data, n_directions=4, run_dir=tmp_path / "run", max_epochs=1, callbacks=[TopExamples()], quiet=True
    )
    lines = run.folder.read_lines(run.folder.vocabulary)
    assert [line["direction"] for line in lines] == [0, 1, 2, 3]
    assert {reading["what"] for line in lines for reading in line["readings"]} == {"attends", "reads", "promotes"}
    assert lines[2]["readings"][0]["parameter"] == run.vocabulary(2)[0].parameter
    circuit = run.folder.read_json(run.folder.circuit)
    assert len(circuit["tokens"]) == 8
    assert circuit["nodes"]
    page = run.folder.report.read_text(encoding="utf-8")
    assert page.count("Through the vocabulary") == 4
    assert 'class="circuit"' in page
