"""What the callbacks give to TensorBoard and other loggers: pictures, control lines, the page of top examples."""

import html
import re
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.text.text_plugin import text_array_to_html

from eigen_lightning.learning.callbacks import Cards, Health, Interference, Scorecard, TensorBoard, TopExamples
from eigen_lightning.learning.callbacks.evaluation import show_picture
from eigen_lightning.learning.callbacks.tensorboard import add_scorecard
from eigen_lightning.learning.callbacks.top_examples import as_markdown
from eigen_lightning.report import heat_map as heat_map_module
from eigen_lightning.report.heat_map import annotated, heat_map, plain
from eigen_lightning.report.hidden_space import hidden_space
from eigen_lightning.run.metrics_csv import MetricsCSV
from tests.toy_runs import fit

UNRULY = [
    string.punctuation,
    "[0.8989, 0.0](http://x.y) <b>&amp;&#91; a|b * c_d_ `e` ![i](j) \\| ~~k~~",
    "</td><script>alert(1)</script>",
    "### head\n\n- item\n1. one\t| x |",
    "Grüße, 你好 🙂 “quoted”",
]


def seen(markdown: str) -> list[list[str]]:
    """The cells of the table that TensorBoard makes of it, as a browser shows them, and what is bold in them."""
    page = text_array_to_html(np.array([markdown.encode()]), enable_markdown=True)
    assert set(re.findall(r"</?(\w+)", page)) <= {"table", "thead", "tbody", "tr", "td", "th", "strong"}
    rows = page.split("</tr>")
    return [re.findall(r"<td>((?:(?!<t).)*?)</td>", row, re.DOTALL) for row in rows if "<td>" in row]


@pytest.mark.parametrize("text", UNRULY)
def test_text_is_shown_as_it_is(text: str) -> None:
    example = {"value": 1.25, "before": "x" + text, "token": " " + text, "after": text + "x"}
    (cells,) = (row for row in seen(as_markdown([[example]])) if len(row) == 3)
    assert cells[:2] == ["<strong>0</strong>", "1.25"]
    before, bold, after = (html.unescape(part) for part in re.split("</?strong>", cells[2]))
    flat = re.sub(r"\s", " ", text)
    assert before == f"x{flat} "
    assert bold == flat.strip()
    assert after == f"{flat}x"


def test_page_holds_the_first_examples_of_every_direction() -> None:
    described = [[{"value": 9.0 - rank, "input": [k, rank / 7]} for rank in range(20)] for k in range(64)]
    rows = [row for row in seen(as_markdown(described)) if len(row) == 3]
    assert len(rows) == 64 * 5
    assert [re.sub("<.*?>", "", row[0]) for row in rows[::5]] == [str(k) for k in range(64)]
    assert [html.unescape(cell) for cell in rows[6]] == ["", "8", "1, 0.143"]


def test_blank_token_is_marked() -> None:
    example = {"value": 1.0, "before": "a", "token": "  ", "after": "b"}
    assert "<strong>␣</strong>" in seen(as_markdown([[example]]))[-1][-1]


def test_plain_heat_map_is_the_matrix() -> None:
    picture = plain(np.array([[1.0, 0.0], [0.5, 1.0]]))
    assert picture.shape == (3, 256, 256)
    assert (picture[:, :128, 128:] == 255).all()
    assert (picture[:, 128:, :128].float() - (255 + picture[:, :1, :1].float()) / 2).abs().max() <= 1


def test_heat_map_needs_no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heat_map_module, "find_spec", lambda name: None)
    assert torch.equal(heat_map(torch.eye(3), "title"), plain(np.eye(3)))


@pytest.mark.parametrize("count", [1, 5, 12, 13, 64])
def test_annotated_heat_map_has_numbers_for_few_directions(count: int) -> None:
    pytest.importorskip("matplotlib")
    values = np.full((count, count), 0.25)
    picture = annotated(values, "title").numpy().astype(int)
    assert picture.shape[0] == 3
    # Inside the matrix all pixels are of one color but for the digits.
    color = np.round(255 * (1 - 0.25 * (1 - np.array([0.05, 0.2, 0.5]))))
    inside = np.abs(picture - color[:, None, None]).max(0) <= 2
    rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    middle = picture[:, rows[0] + 5 : rows[0] + height - 5, columns[0] + 5 : columns[0] + int(0.8 * width)]
    dark = bool((middle.sum(0) < 200).any())
    assert dark == (count <= 12)


@pytest.mark.parametrize("hidden", [1, 2, 6])
def test_hidden_space_is_not_cut(hidden: int) -> None:
    """A direction that moves one tip far outwards stays within the picture."""
    torch.manual_seed(0)
    W = torch.randn(hidden, 4)
    moved = torch.zeros(3, hidden, 4)
    moved[0, :, 1] = 9 * W[:, 1]
    picture = hidden_space(W, moved)
    border = torch.cat([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], dim=1)
    assert picture.shape[1] >= 600
    assert (border == 255).all()
    assert (picture < 200).any(0).float().mean() > 0.005


def test_pictures_go_to_loggers_that_take_them(tmp_path: Path) -> None:
    shown: list[dict[str, Any]] = []
    images = SimpleNamespace(log_image=lambda **given: shown.append(given))
    board = TensorBoardLogger(tmp_path, name="", version="board")
    trainer: Any = SimpleNamespace(loggers=[images, MetricsCSV(tmp_path / "m.csv"), board], global_step=7)
    picture = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    show_picture(trainer, "name", picture)
    assert (shown[0]["key"], shown[0]["step"]) == ("name", 7)
    assert shown[0]["images"][0].shape == (4, 5, 3)
    board.experiment.flush()
    (event,) = EventAccumulator(board.log_dir).Reload().Images("name")
    assert (event.step, event.width, event.height) == (7, 5, 4)


def lines(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_control_is_one_line_however_often_it_is_judged(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path, name="", version="board")
    for step, mcc in ((10, 0.5), (20, 0.75)):
        learned = {"mcc": mcc, "steepness": 2.0, "matched": 3}
        card = {"learned": learned, "random": {"mcc": 0.25, "steepness": 0.5, "matched": 0}}
        add_scorecard(board, card, step)
    board.experiment.flush()
    assert lines(Path(board.log_dir)) == {"scorecard/mcc": [(10, 0.5), (20, 0.75)]}
    assert lines(Path(board.log_dir) / "random") == {
        "scorecard/mcc": [(0, 0.25), (20, 0.25)],
        "heldout/steepness": [(0, 0.5), (20, 0.5)],
    }


@pytest.fixture(scope="module", params=[False, True], ids=["overall", "per direction"])
def board_of_64(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, Any]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("board")
    logger = TensorBoardLogger(folder, name="", version="tensorboard")
    callbacks = [Interference(request.param), TopExamples(), Scorecard(random_draws=1, train_samples=512), Health()]
    fit(folder, *callbacks, Cards(), TensorBoard(), directions=64, samples=1024, start=None, logger=logger)
    return request.param, EventAccumulator(logger.log_dir).Reload().Tags()


def test_64_directions_make_few_tags(board_of_64: tuple[bool, Any]) -> None:
    per_direction, tags = board_of_64
    kinds = ("scalars", "images", "histograms", "tensors")
    found = {tag for kind in kinds for tag in tags[kind]}
    of_directions = {f"{name}/{k:03d}" for name in ("d2D_mean", "d2D_max") for k in range(64)}
    assert len(found - of_directions) <= 30, sorted(found - of_directions)
    assert found & of_directions == (of_directions if per_direction else set())
    assert {"heldout/steepness", "heldout/interference", "scorecard/mcc"} <= set(tags["scalars"])
    assert tags["images"] == ["heldout/interference_matrix"]
    assert tags["histograms"] == ["heldout/log10_d2D"]
    assert "top_examples/text_summary" in tags["tensors"]
