"""From a configuration to the pages: fit ends with a report; intervene, report and compare go on from the folder."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from eigen_lightning.analysis.effects import effects_on
from eigen_lightning.analysis.histogram import CurvatureHistogramMetric, edges
from eigen_lightning.analysis.intervention import Samples
from eigen_lightning.analysis.sensitivity import SensitivityPool
from eigen_lightning.api.load import load_with_samples
from eigen_lightning.api.run import load
from eigen_lightning.cli.main import main, run
from eigen_lightning.curvature import MSE
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from tests.report.test_report import Page
from tests.targets.conftest import save_tiny_model

CONFIGS = Path(__file__).parents[2] / "configs"
TOY = ["--model.start.steps=5", "--data.samples_per_epoch=512", "--trainer.max_epochs=1"]
CALLBACKS = [{"class_path": "Interference"}, {"class_path": "TopExamples", "init_args": {"n_examples": 6}}]


def fit(folder: Path, config: str, *more: str) -> RunFolder:
    run(["fit", "--config", str(CONFIGS / f"{config}.yaml"), "--run_dir", str(folder), "--quiet=true", *TOY, *more])
    return RunFolder(folder)


@pytest.fixture(scope="module")
def xor(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fit(tmp_path_factory.mktemp("xor") / "run", "xor")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("text")
    model = save_tiny_model(folder / "model", "gpt_neo")
    chance = torch.Generator().manual_seed(0)
    words = [" ".join(f"w{i}" for i in torch.randint(61, (16,), generator=chance)) for _ in range(60)]
    (folder / "stories.txt").write_text("\n<|endoftext|>\n".join(words), encoding="utf-8")
    config = {
        "seed_everything": 0,
        "model": {
            "target": {
                "class_path": "Transformer",
                "init_args": {"name": str(model), "parameters": ["blocks.1.attn.W_K"]},
            },
            "n_directions": 4,
            "start": {"steps": 0},
        },
        "data": {
            "class_path": "TinyStories",
            "init_args": {
                "source": str(folder / "stories.txt"),
                "context_length": 8,
                "heldout_fraction": 0.4,
                "batch_size": 16,
            },
        },
        "trainer": {"max_epochs": 1, "callbacks": CALLBACKS},
    }
    (folder / "text.yaml").write_text(yaml.safe_dump(config))
    run(["fit", "--config", str(folder / "text.yaml"), "--run_dir", str(folder / "run"), "--quiet=true"])
    return RunFolder(folder / "run")


def test_fit_ends_with_a_report_and_checks(xor):
    page = Page(xor.report.read_text(encoding="utf-8"))
    assert len([1 for tag, _ in page.tags if tag == "article"]) == 3
    found = xor.read_json(xor.interventions)
    for line in found["directions"]:
        half = len(line["deltas"]) // 2
        both = (line["top"][half] + line["top"][half - 1]) / 2
        assert both == pytest.approx(line["predicted"][half], rel=0.01)
        # The truth table: all four inputs, the outputs before being the network's.
        rows = line["effects"]["outputs"]
        assert [row["input"] for row in rows] == [[0, 0], [0, 1], [1, 0], [1, 1]]
        assert [row["before"][0] for row in rows] == pytest.approx([0, 1, 1, 0], abs=0.05)


def test_intervene_measures_the_same_again(xor, capsys):
    before = xor.read_json(xor.interventions)
    run(["intervene", str(xor.path)])
    after = xor.read_json(xor.interventions)
    for one, other in zip(before["directions"], after["directions"], strict=True):
        assert one["top"] == pytest.approx(other["top"], rel=1e-4)
        assert one["control_random"] == pytest.approx(other["control_random"], rel=1e-4)
    printed = capsys.readouterr().out
    assert "Median selectivity" in printed
    tables = [line for line in printed.splitlines() if line.startswith(("│", "┃", "┏"))]
    assert tables
    assert max(map(len, tables)) <= 100
    run(["intervene", str(xor.path), "--quiet", "--matched=false", "--controls=1"])
    assert capsys.readouterr().out == ""
    assert xor.read_json(xor.interventions)["matched"] is False
    run(["intervene", str(xor.path), "--quiet"])


def test_of_many_directions_a_sample_is_checked_and_the_page_says_so(xor):
    before = xor.interventions.read_bytes()
    run(["intervene", str(xor.path), "--quiet", "--most_directions=2"])
    checked = xor.read_json(xor.interventions)
    assert [line["direction"] for line in checked["directions"]] == [0, 2]
    assert checked["n_directions"] == 3
    assert "median of 2 of 3 directions that were checked" in xor.report.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="--most_directions 3"):
        load(xor.path).curve(1)
    run(["intervene", str(xor.path), "--quiet"])
    assert xor.interventions.read_bytes() == before


def test_report_and_compare_from_folders_alone(xor, tmp_path, capsys):
    xor.report.unlink()
    run(["report", str(xor.path)])
    assert xor.report.exists()
    run(["compare", str(xor.path), str(xor.path), "--out", str(tmp_path / "both.html")])
    assert "3 of 3 shared" in capsys.readouterr().out
    assert (tmp_path / "both.html").stat().st_size > 5000


def test_a_tms_run_shows_single_features_and_its_hidden_space(tmp_path):
    tms = fit(tmp_path / "run", "tms", "--data.heldout_samples=256", "--data.batch_size=256")
    source = tms.report.read_text(encoding="utf-8")
    assert source.count('class="geometry"') == 5
    assert "single feature on" in source
    line = tms.read_json(tms.interventions)["directions"][0]
    assert all(len(row["plus"]) == 5 for row in line["effects"]["outputs"])


def test_text_is_shaded_by_the_d2d_of_every_token(text):
    loaded, data = load_with_samples(text.path)
    samples = data.evaluation_sets["heldout"]
    lines, cards = text.read_top_examples(), text.read_lines(text.cards)
    assert len(cards) == 4
    for k, (line, card) in enumerate(zip(lines, cards, strict=True)):
        assert len(card["contexts"]) == 6
        assert card["histogram"]["samples"] == len(samples) * 8
        for example, context in zip(line["examples"], card["contexts"], strict=True):
            index = samples.locate(context["sample_id"])[1]
            expected = loaded.d2D(samples.batch(0, torch.tensor([index])).inputs)[k, 0]
            assert context["values"] == pytest.approx(expected.tolist(), rel=1e-2, abs=1e-9)
            assert context["values"][example["position"]] == pytest.approx(example["value"], rel=1e-3)
            assert len(context["tokens"]) == 8
    page = Page(text.report.read_text(encoding="utf-8"))
    assert page.text.count("What a step does to the next token") == 4


def test_promoted_and_suppressed_tokens_are_those_of_the_moved_model(text):
    loaded, data = load_with_samples(text.path)
    samples = data.evaluation_sets["heldout"]
    example = text.read_top_examples()[0]["examples"][:1]
    index = samples.locate(example[0]["sample_id"])[1]
    inputs, position = samples.batch(0, torch.tensor([index])).inputs, example[0]["position"]
    top = Samples(inputs, torch.tensor([position]))
    found = effects_on(loaded.linearizer(inputs), samples, top, loaded.U[0], example[0]["value"], example)
    target, space = loaded.target, loaded.target.space
    logits = []
    for delta in (0.0, found["delta"]):
        moved = space.unflatten(space.flatten(target.weights) + delta * loaded.U[0].detach())
        logits.append(target.outputs(moved, inputs)[0, position].double().detach())
    shift = logits[1] - logits[0]
    change = shift - (logits[0].softmax(-1) * shift).sum()
    likely = torch.stack([each.softmax(-1) for each in logits]).amax(0) >= 1e-4
    best = int(change.masked_fill(~likely, -math.inf).argmax())
    first = found["tokens"]["plus"]["rise"][0]
    assert first["token"] == f"w{best}"
    assert first["change"] == pytest.approx(float(change[best]), rel=1e-3)
    assert first["after"] == pytest.approx(float(logits[1].softmax(-1)[best]), rel=1e-3)
    (line,) = found["predictions"]
    assert line["before"][0][0] == f"w{int(logits[0].argmax())}"


def test_sensitivity_is_the_trace(xor):
    loaded, data = load_with_samples(xor.path)
    samples = data.evaluation_sets["heldout"]
    pool = SensitivityPool(loaded.linearizer(samples.batch(0, torch.arange(4)).inputs), samples, 0)
    origin = loaded.target.space.flatten(loaded.target.weights)
    for identity, trace in zip(pool.sample_id.tolist(), pool.sensitivity, strict=True):
        inputs = samples.batch(0, torch.tensor([samples.locate(identity)[1]])).inputs

        def divergence(weights: torch.Tensor, inputs: torch.Tensor = inputs) -> torch.Tensor:
            outputs = [loaded.target.outputs(loaded.target.space.unflatten(w), inputs) for w in (weights, origin)]
            return MSE().value(*outputs).squeeze()

        expected = torch.func.hessian(divergence)(origin).trace()
        torch.testing.assert_close(trace, expected, rtol=1e-3, atol=1e-5)


def test_a_folder_without_results_is_one_line_and_code_2(tmp_path, capsys):
    for command in ("report", "intervene"):
        with pytest.raises(SystemExit) as exit_:
            main([command, str(tmp_path)])
        assert exit_.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_run_whose_target_changed_is_refused(xor, tmp_path):
    import shutil

    shutil.copytree(xor.path, tmp_path / "copy")
    changed = RunFolder(tmp_path / "copy")
    weights, facts = changed.read_target()
    changed.write_target({name: tensor * 1.01 for name, tensor in weights.items()}, facts)
    with pytest.raises(UserError, match="expected the target that was decomposed"):
        load_with_samples(changed.path)


def test_no_report_where_none_is_wanted(tmp_path):
    assert not fit(tmp_path / "run", "xor", "--report=false").report.exists()


def test_histograms_count_every_sample_in_its_bin():
    metric = CurvatureHistogramMetric(2)
    values = torch.tensor([[0.0, 1.5, 1.5, 2e9], [1e-13, 0.015, 5.0, 5.0]])
    for part in values.split(2, dim=1):
        metric.update(part)
    counts, borders = metric.compute(), edges()
    assert counts.sum(1).tolist() == [4, 4]
    assert counts[:, 0].tolist() == [1, 1]
    assert counts[:, -1].tolist() == [1, 0]
    for row, value, count in ((0, 1.5, 2), (1, 0.015, 1), (1, 5.0, 2)):
        bin_ = int((borders <= value).sum())
        assert counts[row, bin_] == count
