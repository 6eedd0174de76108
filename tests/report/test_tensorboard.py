"""TensorBoard started for real on a finished run: its HTTP API lists every promised tag with data."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode

import pytest

from eigen_lightning.cli.main import run
from eigen_lightning.run.folder import RunFolder

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[2] / "configs" / "tms.yaml"


class Board:
    """A running TensorBoard's data."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}/data/"

    def __call__(self, path: str, **query: Any) -> Any:
        with urllib.request.urlopen(f"{self.base}{path}?{urlencode(query)}", timeout=10) as answer:
            return json.load(answer)

    def tags(self, plugin: str) -> dict[str, Any]:
        found = self(f"plugin/{plugin}/tags")
        return next(iter(found.values())) if found else {}


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
    started = Board(port)
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


def test_every_promised_scalar_has_data(board):
    tags = set(board.tags("scalars"))
    promised = {"train/steepness", "heldout/steepness", "heldout/interference", "heldout/interference_ratio"}
    promised |= {f"{name}/{k:03d}" for name in ("d2D_mean", "d2D_max") for k in range(5)}
    curves = ("top", "random", "control", "predicted")
    promised |= {f"intervention_{name}/{k:03d}" for name in curves for k in range(5)}
    promised |= {
        f"scorecard/{name}/{who}" for name in ("mcc", "selectivity") for who in ("learned", "random", "pca", "oracle")
    }
    promised |= {"intervention_selectivity", "intervention_control_selectivity", "result/mcc"}
    assert promised <= tags, promised - tags
    for tag in ("heldout/steepness", "intervention_top/003", "scorecard/mcc/random"):
        series = board("plugin/scalars/scalars", run=".", tag=tag)
        assert series
        assert all(point[2] == point[2] for point in series)
    assert len(board("plugin/scalars/scalars", run=".", tag="heldout/steepness")) == 2
    assert len(board("plugin/scalars/scalars", run=".", tag="intervention_top/000")) == 7


def test_histograms_images_and_text_are_there(board):
    assert {f"d2D/{k:03d}" for k in range(5)} <= set(board.tags("histograms"))
    steps = board("plugin/histograms/histograms", run=".", tag="d2D/000")
    assert len(steps) == 2
    assert sum(bucket[2] for bucket in steps[-1][2]) > 0
    assert {"interference", "interference_normalized", "hidden_space"} <= set(board.tags("images"))
    texts = {tag.removesuffix("/text_summary") for tag in board.tags("text")}
    assert {f"top_examples/{k:03d}" for k in range(5)} <= texts


def test_the_layout_opens_on_quality_with_controls(board):
    layout = board("plugin/custom_scalars/layout")
    titles = [category["title"] for category in layout["category"]]
    assert titles[0] == "Quality, with controls"
    charts = {chart["title"]: chart["multiline"]["tag"] for chart in layout["category"][0]["chart"]}
    assert charts["mcc"] == [f"scorecard/mcc/{who}" for who in ("learned", "random", "pca", "oracle")]


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
    assert {"heldout/steepness", "result/mcc", "result/median_intervention_selectivity"} <= metrics
