"""Two runs side by side."""

import numpy as np
import pytest
import torch

from eigen_lightning.report.comparison import compare, write_comparison
from eigen_lightning.run.errors import UserError
from tests.report.folders import make_run
from tests.report.test_report import Page


def orthonormal(rows: int, width: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, rows)))[0].T


def test_permuted_and_flipped_directions_are_all_shared():
    a = orthonormal(6, 200, 0)
    order = np.array([3, 1, 5, 0, 2, 4])
    signs = np.array([1, -1, 1, -1, 1, 1])[:, None]
    found = compare(a, (signs * a)[order])
    assert found.n_shared == 6
    assert not found.only_a
    assert not found.only_b
    assert {(pair.a, pair.b) for pair in found.pairs} == {(int(k), row) for row, k in enumerate(order)}


def test_what_is_new_is_named_and_random_sets_share_nothing():
    a = orthonormal(8, 300, 0)
    b = np.concatenate([a[:5], orthonormal(4, 300, 1)])
    found = compare(a, b)
    assert found.n_shared == 5
    assert found.only_a == [5, 6, 7]
    assert found.only_b == [5, 6, 7, 8]
    unlike = compare(a, orthonormal(8, 300, 2))
    assert unlike.n_shared == 0
    # The floor is what an unrelated set reaches.
    assert np.mean([pair.cosine for pair in unlike.pairs]) == pytest.approx(unlike.floor, rel=0.15)


def test_few_parameters_raise_the_bar():
    """In six dimensions random directions come close; the threshold is above all of them."""
    found = compare(orthonormal(3, 6, 0), orthonormal(3, 6, 1))
    assert found.floor > 0.4
    assert found.threshold > 0.8


def test_the_page_shows_every_pair(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", words=["<script>x</script>", " word"])
    found = write_comparison(a, b, tmp_path / "both.html")
    page = Page((tmp_path / "both.html").read_text(encoding="utf-8"))
    assert found.n_shared == 8
    assert len([1 for tag, _ in page.tags if tag == "article"]) == 8
    assert "8 of 8 matched directions are shared" in page.text
    assert "<script>x</script>" in page.text


def test_runs_over_other_parameters_are_refused(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", "tms")
    with pytest.raises(UserError, match="same parameters"):
        write_comparison(a, b, tmp_path / "both.html")
    b.directions.unlink()
    with pytest.raises(UserError, match="directions"):
        write_comparison(a, b, tmp_path / "both.html")


def test_u_in_float32_is_compared_in_float64(tmp_path):
    run = make_run(tmp_path / "a")
    assert run.read_directions()[0].dtype == torch.float32
    assert write_comparison(run, run, tmp_path / "both.html").pairs[-1].cosine == pytest.approx(1, abs=1e-6)
