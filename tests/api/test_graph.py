"""A run's directions joined over a text."""

from collections.abc import Callable
from pathlib import Path

import torch

import eigen_lightning as el
from eigen_lightning.run.folder import RunFolder
from tests.api.written_runs import unit_rows, write_run
from tests.targets.conftest import tiny_folder  # noqa: F401 - a fixture


def test_a_text_s_tokens_are_its_columns(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:  # noqa: F811
    target = el.Transformer(str(tiny_folder("gpt_neo")), ["blocks.*.attn.W_V"])
    target.load(RunFolder(tmp_path))
    write_run(tmp_path / "run", target, unit_rows(5, target))
    run = el.load(tmp_path / "run", model=target)
    found = run.graph("w3 w8 w1 w60", per_token=2)
    assert found.tokens == ("w3", "w8", "w1", "w60")
    assert found.active.sum(0).tolist() == [2] * 4
    assert found.control is not None
    values = run.d2D("w3 w8 w1 w60")
    torch.testing.assert_close(found.curvature, values[list(found.directions)], rtol=1e-4, atol=1e-9)
    again = run.graph(torch.tensor([[3, 8, 1, 60]]), per_token=2)
    assert again.tokens == ("0", "1", "2", "3")
    assert torch.equal(again.correlation, found.correlation)
