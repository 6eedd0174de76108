"""TensorBoard started for real on a finished run: what its HTTP API says of curves, controls, pictures and text."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode

import pytest
from PIL import Image

from eigen_lightning.cli.main import run
from eigen_lightning.run.folder import RunFolder

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[2] / "configs" / "tms.yaml"


class Board:
    """A running TensorBoard's data."""

    def __init__(self, port: int, run: RunFolder) -> None:
        self.run = run
        self.base = f"http://127.0.0.1:{port}/data/"

    def __call__(self, path: str, **query: Any) -> Any:
        with urllib.request.urlopen(f"{self.base}{path}?{urlencode(query)}", timeout=10) as answer:
            return json.load(answer)

    def tags(self, plugin: str) -> dict[str, Any]:
        found = self(f"plugin/{plugin}/tags")
        return found.get(".", {}) if found else {}


@pytest.fixture(scope="module")
def board(tmp_path_factory: Any) -> Iterator[Board]:
    folder = tmp_path_factory.mktemp("board") / "run"
    overrides = ["--data.heldout_samples=1024", "--trainer.max_epochs=2"]
    run(["fit", "--config", str(CONFIG), "--run_dir", str(folder), "--quiet=true", *overrides])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(RunFolder(folder).tensorboard)]
    command += ["--port", str(port), "--load_fast=false"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = Board(port, RunFolder(folder))
    try:
        for _ in range(120):
            try:
                if started.tags("scalars") and started.tags("images"):
                    break
            except (URLError, ConnectionError, json.JSONDecodeError):
                pass
            time.sleep(0.5)
        yield started
    finally:
        process.terminate()
        process.wait(20)


def test_curves_and_controls_share_charts(board):
    """A control has the chart of the learned directions, as a run of its own: TensorBoard names and colors it."""
    by_run = board("plugin/scalars/tags")
    assert set(by_run) == {".", "random", "pca", "oracle"}
    shared = {"heldout/steepness", "heldout/interference"}
    shared |= {f"scorecard/{name}" for name in ("mcc", "selectivity", "uniqueness", "mmcs", "explained_curvature")}
    own = {"train/steepness", "heldout/interference_ratio", "interventions/median_selectivity", "unhealthy/dead"}
    assert shared | own <= set(by_run["."])
    for control in ("random", "pca", "oracle"):
        assert set(by_run[control]) == shared
        for tag in shared:
            first, last = board("plugin/scalars/scalars", run=control, tag=tag)
            assert first[1] == 0 < last[1]
            assert first[2] == last[2]
    learned = board("plugin/scalars/scalars", run=".", tag="heldout/steepness")
    assert len(learned) == 2
    random = board("plugin/scalars/scalars", run="random", tag="heldout/steepness")
    assert learned[-1][2] > 2 * random[-1][2]


def test_few_tags_all_with_data(board):
    plugins = ("scalars", "images", "histograms", "text")
    tags = {(plugin, tag) for plugin in plugins for tag in board.tags(plugin)}
    assert len(tags) <= 27
    assert {tag for plugin, tag in tags if plugin != "scalars"} == {
        "heldout/interference_matrix",
        "hidden_space",
        "heldout/log10_d2D",
        "top_examples/text_summary",
    }
    steps = board("plugin/histograms/histograms", run=".", tag="heldout/log10_d2D")
    assert len(steps) == 2
    assert 0 < sum(bucket[2] for bucket in steps[-1][2]) <= 5 * 1024
    # Lightning logs an epoch's metrics at the number of the last batch, counted from 0.
    epoch_ends = [point[1] + 1 for point in board("plugin/scalars/scalars", run=".", tag="heldout/steepness")]
    for tag in ("heldout/interference_matrix", "hidden_space"):
        pictures = board("plugin/images/images", run=".", tag=tag, sample=0)
        assert [picture["step"] for picture in pictures] == epoch_ends
        with urllib.request.urlopen(
            f"{board.base}plugin/images/individualImage?{pictures[-1]['query']}", timeout=10
        ) as answer:
            assert min(Image.open(answer).size) >= 256


def test_top_examples_are_one_page_escaped_once(board):
    """Rows as in top_examples.jsonl, read off the page that the server sends."""
    pages = board("plugin/text/text", run=".", tag="top_examples/text_summary", markdown="true")
    assert len(pages) == 2
    cells = [unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<td>((?:(?!<t).)*?)</td>", pages[-1]["text"])]
    wanted = []
    for line in board.run.read_top_examples():
        for rank, example in enumerate(line["examples"][:5]):
            shown = ", ".join(f"{value:.3g}" for value in example["input"])
            wanted += ["" if rank else str(line["direction"]), f"{example['value']:.3g}", shown]
    assert cells == wanted


def test_hyper_parameters_have_final_metrics(board):
    with urllib.request.urlopen(
        urllib.request.Request(
            board.base + "plugin/hparams/experiment",
            data=json.dumps({"hparamsLimit": 0}).encode(),
            headers={"Content-Type": "application/json"},
        ),
        timeout=10,
    ) as answer:
        experiment = json.load(answer)
    names = {info["name"] for info in experiment["hparamInfos"]}
    metrics = {info["name"]["tag"] for info in experiment["metricInfos"]}
    assert {"model.n_directions", "model.target.init_args.features"} <= names
    assert {"heldout/steepness", "scorecard/mcc", "interventions/median_selectivity"} <= metrics
