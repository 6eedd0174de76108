"""A language model from a folder, through the interface: fit, load, d2D of a text."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import eigen_lightning as el
from eigen_lightning.run.errors import UserError
from tests.targets.conftest import save_tiny_model

TEXT = " ".join(f"w{i}" for i in (3, 1, 4, 1, 5, 9, 2, 6))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> el.Run:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("language")
    model = save_tiny_model(folder / "model", "gpt_neo")
    chance = torch.Generator().manual_seed(0)
    words = [" ".join(f"w{i}" for i in torch.randint(61, (16,), generator=chance)) for _ in range(60)]
    (folder / "stories.txt").write_text("\n<|endoftext|>\n".join(words), encoding="utf-8")
    stories = el.TinyStories(str(folder / "stories.txt"), context_length=8, heldout_fraction=0.4, batch_size=16)
    target = el.Transformer(str(model), ["blocks.1.attn.W_K"])
    return el.fit(target, stories, n_directions=3, run_dir=folder / "run", max_epochs=1, quiet=True)


def test_a_text_has_d2d_on_every_token_in_memory_and_from_disk(run: el.Run) -> None:
    values = run.d2D(TEXT)
    assert values.shape == (3, 8)
    assert run.tokens(TEXT)[0].strip() == "w3"
    # At the first position a query sees one key: nothing moves.
    assert float(values[:, 0].max()) < 1e-6 * float(values.max())
    assert torch.equal(el.load(run.folder.path).d2D(TEXT), values)


def test_d2d_of_a_text_is_what_steps_of_the_weights_do(run: el.Run) -> None:
    inputs = run._inputs(TEXT)
    target, divergence, space = run.target, run.divergence, run.target.space
    target.to(dtype=torch.float64)
    try:
        at = space.flatten(target.weights)
        step = run.U[1].double() * 1e-3
        outputs = [target.outputs(space.unflatten(at + sign * step), inputs).detach() for sign in (1, 0, -1)]
        moved = divergence.value(outputs[0], outputs[1]) + divergence.value(outputs[2], outputs[1])
    finally:
        target.to(dtype=torch.float32)
    assert moved[0].tolist() == pytest.approx((run.d2D(TEXT)[1] * 1e-6).tolist(), rel=1e-2, abs=1e-13)


def test_top_examples_are_text(run: el.Run) -> None:
    examples = run.top_examples(2)
    assert examples[0]["value"] == max(example["value"] for example in examples)
    assert {"before", "token", "after", "position"} <= set(examples[0])


def test_texts_are_intervened_on_where_a_direction_is_steepest(run: el.Run) -> None:
    texts = torch.stack([run._inputs(TEXT)[0], run._inputs(TEXT)[0].flip(0)])
    found = run.intervene(1, texts, texts, controls=2)
    half = len(found.deltas) // 2
    both = (found.learned.top[half] + found.learned.top[half - 1]) / 2
    assert float(both) == pytest.approx(float(found.predicted[half]), rel=0.05)
    steepest = run.d2D(texts)[1].amax(1).mean()
    assert float(found.predicted[half]) == pytest.approx(float(found.deltas[half] ** 2 * steepest / 2), rel=1e-4)
    assert float(run.intervene(1, TEXT, TEXT, controls=2).learned.top[half]) > 0


def test_directions_are_exported_as_neuronpedia_takes_vectors(run: el.Run, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in run.export_neuronpedia(tmp_path / "np.jsonl", "gpt-neo").open()]
    assert [line["direction"] for line in lines] == [0, 1, 2]
    for line in lines:
        vector = torch.tensor(line["vector"].pop("vector"), dtype=torch.float64)
        expected = torch.linalg.svd(run.directions["blocks.1.attn.W_K"][line["direction"]].double())[2][0]
        assert float((vector @ expected).abs()) == pytest.approx(1, abs=1e-6)
        assert set(line["vector"]) == {
            "modelId",
            "vectorLabel",
            "vectorDefaultSteerStrength",
            "layerNumber",
            "hookType",
        }
        assert (line["vector"]["layerNumber"], line["vector"]["hookType"]) == (1, "hook_resid_pre")
        first = line["activations"][0]
        assert first["values"] == pytest.approx(run.d2D("".join(first["tokens"]))[line["direction"]].tolist(), rel=1e-3)
    own = tmp_path / "own"
    shutil.copytree(run.folder.path, own)
    (own / "labels.json").write_text(json.dumps({"1": "mine"}))
    lines = [json.loads(line) for line in el.load(own).export_neuronpedia(tmp_path / "np.jsonl", "m").open()]
    assert lines[1]["vector"]["vectorLabel"] == "mine"
    (own / "cards.jsonl").unlink()
    with pytest.raises(UserError, match=r"cards\.jsonl"):
        el.load(own).export_neuronpedia(tmp_path / "np.jsonl", "m")
