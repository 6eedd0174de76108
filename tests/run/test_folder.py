import errno
import json
import os
import stat

import numpy as np
import pytest
import torch
from safetensors import safe_open

from eigen_lightning.run.folder import RunFolder, keep_as, tensor_file, write_atomically

SPACE = {"blocks.0.W": (2, 2), "scale": ()}


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "runs" / "one")


def files_under(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_write_makes_the_folder_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert files_under(tmp_path) == ["a/b/file.bin"]


def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    write_atomically(path, b"old")

    def full_disk(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_content_is_flushed_to_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    at_flush = []
    flush = os.fsync

    def record(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            at_flush.append((os.fstat(descriptor).st_size, path.exists()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_atomically(path, b"12345")
    assert at_flush == [(5, False)]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, None])
def test_a_second_name_is_a_copy_where_there_are_no_links(tmp_path, monkeypatch, number):
    last, previous = tmp_path / "last", tmp_path / "previous"

    def no_links(*paths):
        raise OSError(number, os.strerror(number))

    if number is not None:
        monkeypatch.setattr(os, "link", no_links)
    for content in (b"first", b"second"):
        write_atomically(last, content)
        keep_as(last, previous)
    write_atomically(last, b"third")
    assert (previous.read_bytes(), last.read_bytes()) == (b"second", b"third")
    assert files_under(tmp_path) == ["last", "previous"]


@pytest.mark.parametrize(("number", "matters"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_file_systems_that_do_not_flush_folders_are_written_to(tmp_path, monkeypatch, number, matters):
    flush = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    if matters:
        with pytest.raises(OSError, match="error"):
            write_atomically(tmp_path / "file", b"content")
    else:
        write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_equal_tensors_and_facts_are_equal_bytes(run):
    """safetensors' own order of metadata differs from call to call."""
    facts = {name: name * 3 for name in ("shapes", "parameters", "é", "b", "a")}
    tensors = {"U": torch.arange(6.0).view(2, 3), "b": torch.ones(1)}
    contents = {tensor_file(tensors, facts) for _ in range(20)}
    assert len(contents) == 1
    write_atomically(run.directions, contents.pop())
    with safe_open(run.directions, framework="pt") as file:
        assert file.metadata() == facts
        assert file.get_tensor("U").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert file.get_tensor("b").tolist() == [1]


def test_target_round_trip(run):
    weights = {"W": torch.randn(3, 2).T, "b": torch.randn(2, requires_grad=True)}
    facts = {"seed": 3, "loss": 0.001, "represented": [0, 1]}
    run.write_target(weights, facts)
    read, read_facts = run.read_target()
    assert read_facts == facts
    assert list(read) == ["W", "b"]
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    assert files_under(run.path) == ["target.safetensors"]


def test_directions_round_trip_and_are_described_in_the_file(run):
    directions = torch.randn(3, 5)
    run.write_directions(directions, SPACE)
    read, space = run.read_directions()
    assert torch.equal(read, directions)
    assert space == SPACE
    with safe_open(run.path / "directions.safetensors", framework="pt") as file:
        assert list(file.keys()) == ["U"]
        assert json.loads(file.metadata()["parameters"]) == ["blocks.0.W", "scale"]
        assert json.loads(file.metadata()["shapes"]) == [[2, 2], []]


def test_json_keeps_order_and_letters(run):
    run.write_json(run.manifest, {"z": 1, "a": "λ"})
    text = (run.path / "manifest.json").read_text(encoding="utf-8")
    assert text == '{\n  "z": 1,\n  "a": "λ"\n}\n'


def test_interference_is_a_plain_numpy_file(run):
    run.write_interference(torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64))
    matrix = np.load(run.path / "interference.npy", allow_pickle=False)
    assert matrix.dtype == np.float32
    assert matrix.tolist() == [[1.0, 0.5], [0.5, 2.0]]
    assert files_under(run.path) == ["interference.npy"]


@pytest.mark.parametrize(
    "text", ["a\nb\r\n", "line\u2028separator", "next\x85line", 'quote" \\ <script>', "\U0001f600 λ"]
)
def test_top_examples_are_one_line_a_direction_whatever_the_text(run, text):
    lines = [{"direction": k, "examples": [{"value": 0.5, "text": text}]} for k in range(3)]
    run.write_top_examples(lines)
    assert (run.path / "top_examples.jsonl").read_bytes().count(b"\n") == 3
    assert run.read_top_examples() == lines


def test_names_are_those_people_rely_on(run):
    names = {path.relative_to(run.path).as_posix() for path in vars(run).values() if path != run.path}
    assert names >= {
        "config.yaml",
        "manifest.json",
        "checkpoints",
        "checkpoints/last.ckpt",
        "tensorboard",
        "metrics.csv",
        "target.safetensors",
        "directions.safetensors",
        "scorecard.json",
        "interference.npy",
        "top_examples.jsonl",
        "report.html",
    }


OLD = {"checkpoints/last.ckpt", "config.yaml", "manifest.json"}


def write_old_run(run):
    run.checkpoints.mkdir(parents=True)
    for name in OLD:
        (run.path / name).write_text("old")
    (run.path / "notes.txt").write_text("mine")


def test_a_replacement_that_gets_going_takes_the_old_results_place(run):
    write_old_run(run)
    with run.replaced():
        assert not any((run.path / name).exists() for name in OLD)
        run.manifest.write_text("new")
    assert files_under(run.path) == ["manifest.json", "notes.txt"]
    assert run.manifest.read_text() == "new"


def fail_early(run):
    with run.replaced():
        run.config.write_text("new")
        run.tensorboard.mkdir()
        raise RuntimeError


def test_a_replacement_that_fails_early_gives_the_old_results_back(run):
    write_old_run(run)
    with pytest.raises(RuntimeError):
        fail_early(run)
    assert files_under(run.path) == sorted([*OLD, "notes.txt"])
    assert all((run.path / name).read_text() == "old" for name in OLD)
    assert not run.tensorboard.exists()


def test_an_empty_folder_needs_no_replacing(run):
    with run.replaced():
        run.path.mkdir(parents=True)
        run.config.write_text("new")
    assert files_under(run.path) == ["config.yaml"]
