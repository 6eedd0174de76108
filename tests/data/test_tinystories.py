"""Stories to windows: where they are cut, which side they are on, how many there are."""

import json
import logging
import re
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
import torch
from byte_tokenizer import ByteTokenizer

from eigen_lightning.data import TinyStories
from eigen_lightning.run.errors import UserError

MARKER = "<|endoftext|>"


def write(path: Path, stories: Iterable[str], end: str = "\n") -> str:
    path.write_text("".join(f"{story}{end}{MARKER}{end}" for story in stories), encoding="utf-8", newline="")
    return str(path)


def write_as(path: Path, stories: list[str]) -> str:
    """Stories as the kind of file that ``path`` says."""
    if path.suffix == ".txt":
        return write(path, stories)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"text": story}) for story in stories))
    else:
        columns = {"text": stories, "length": [len(story) for story in stories]}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def numbered(count: int, first: int = 0) -> list[str]:
    return [f"{number:04d}: a number.\nIt ends after {'x' * (number % 7)}." for number in range(first, count)]


def prepared(source: str, **options: object) -> TinyStories:
    stream = TinyStories(source, **{"context_length": 8, "seed": 0, **options})
    stream.trainer = SimpleNamespace(
        lightning_module=SimpleNamespace(target=SimpleNamespace(tokenizer=ByteTokenizer()))
    )
    stream.setup()
    stream.trainer = None
    return stream


def texts(stream: TinyStories, name: str = "train") -> list[str]:
    samples = stream.train_set if name == "train" else stream.evaluation_sets[name]
    return [bytes(window.tolist()).decode() for window in samples.windows]


def cut(stories: Iterable[str], length: int = 8) -> list[str]:
    return [story[i : i + length] for story in stories for i in range(0, len(story) - length + 1, length)]


def story_numbers(stream: TinyStories, name: str) -> set[int]:
    return {int(text[:4]) for text in texts(stream, name) if re.match(r"\d{4}: ", text)}


def test_every_story_is_cut_from_its_start_and_no_window_spans_two(tmp_path: Path) -> None:
    stories = numbered(40)
    stream = prepared(write(tmp_path / "a.txt", stories), heldout_fraction=0.3)
    sides = {name: story_numbers(stream, name) for name in ("train", "heldout")}
    assert sides["train"] | sides["heldout"] == set(range(40))
    assert not sides["train"] & sides["heldout"]
    for name, side in sides.items():
        assert texts(stream, name) == cut(stories[number] for number in sorted(side))


def test_a_story_stays_on_its_side_whatever_else_is_there(tmp_path: Path) -> None:
    few = prepared(write(tmp_path / "few.txt", numbered(60)))
    many = prepared(write(tmp_path / "many.txt", [*numbered(400, first=60), *numbered(60)]))
    assert story_numbers(few, "heldout") == {n for n in story_numbers(many, "heldout") if n < 60}
    share = len(story_numbers(many, "heldout")) / 400
    assert abs(share - 0.1) < 5 * (0.1 * 0.9 / 400) ** 0.5
    other = prepared(write(tmp_path / "many.txt", numbered(400)), seed=1)
    assert story_numbers(other, "heldout") != story_numbers(many, "heldout")


def test_a_story_told_twice_is_taken_once(tmp_path: Path) -> None:
    once = prepared(write(tmp_path / "once.txt", numbered(40)))
    twice = prepared(write(tmp_path / "twice.txt", [*numbered(40), *(f"  {story}\n\n" for story in numbered(40))]))
    for name in ("train", "heldout"):
        assert texts(twice, name) == texts(once, name)


def test_held_out_file_keeps_its_stories_out_of_training(tmp_path: Path) -> None:
    source, heldout = write(tmp_path / "train.txt", numbered(40)), write(tmp_path / "test.txt", numbered(10))
    stream = prepared(source, heldout=heldout)
    assert story_numbers(stream, "heldout") == set(range(10))
    assert story_numbers(stream, "train") == set(range(10, 40))


@pytest.mark.parametrize("heldout", ["same path", "other path", "folder", "split"])
def test_a_held_out_file_that_is_the_source_is_divided_by_story(
    tmp_path: Path, heldout: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "a.txt", numbered(250))
    want = prepared(source)
    monkeypatch.chdir(tmp_path)
    if heldout in ("folder", "split"):
        source = str(tmp_path)
    same = {"same path": source, "other path": "./a.txt", "folder": ".", "split": "train"}[heldout]
    with caplog.at_level(logging.WARNING):
        got = prepared(source, heldout=same, n_heldout_sequences=10)
    assert texts(got) == texts(want)
    assert texts(got, "heldout") == texts(want, "heldout")[:10]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said == f"source and heldout are the same, {source}: a share of 0.1 of its stories is held out"
    with pytest.raises(UserError, match="heldout_fraction in"):
        TinyStories(source, heldout=same, heldout_fraction=0.0)


def test_only_stories_with_held_out_windows_are_left_out_of_training(tmp_path: Path) -> None:
    source, heldout = write(tmp_path / "train.txt", numbered(400)), write(tmp_path / "test.txt", ["x", *numbered(350)])
    stream = prepared(source, heldout=heldout, n_heldout_sequences=9)
    sides = [story_numbers(stream, name) for name in ("heldout", "train")]
    assert sides[0] == set(range(len(sides[0])))
    assert len(sides[0]) <= 9
    assert sides[1] == set(range(400)) - sides[0]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
@pytest.mark.parametrize(("name", "other"), [("a[1]", "a1"), ("what?", "whatX"), ("all*", "all-of-it"), ("a::b", "b")])
@pytest.mark.parametrize("in_folder", [False, True])
def test_a_path_is_no_pattern(tmp_path: Path, kind: str, name: str, other: str, in_folder: bool) -> None:
    paths = []
    for path, stories in ((name, numbered(40)), (other, numbered(80, first=40))):
        paths.append(tmp_path / (f"{path}/0.{kind}" if in_folder else f"{path}.{kind}"))
        paths[-1].parent.mkdir(exist_ok=True)
        write_as(paths[-1], stories)
    stream = prepared(str(paths[0].parent if in_folder else paths[0]))
    assert story_numbers(stream, "train") | story_numbers(stream, "heldout") == set(range(40))


def test_a_folder_gives_the_windows_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "stories"
    (folder / "data").mkdir(parents=True)
    (folder / ".cache").mkdir()
    want = prepared(write(folder / "data" / "train.txt", numbered(40)), heldout_fraction=0.3)
    write(folder / "TinyStories-valid.txt", numbered(60, first=40))
    write(folder / ".cache" / "train.txt", numbered(90, first=60))
    (folder / "README.md").write_text("About the training stories.")
    got = prepared(str(folder), heldout_fraction=0.3)
    assert [texts(got, name) for name in ("train", "heldout")] == [texts(want, name) for name in ("train", "heldout")]
    split = prepared(str(folder), heldout="validation")
    assert story_numbers(split, "train") == set(range(40))
    assert story_numbers(split, "heldout") == set(range(40, 60))


def test_paths_mean_the_same_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.txt", numbered(40))
    write(tmp_path / "b.txt", numbered(10))
    monkeypatch.chdir(tmp_path)
    stream = TinyStories("a.txt", heldout="./b.txt", tokenizer="./tokenizer")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (stream.source, stream.heldout) == (str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    assert stream.tokenizer == str(tmp_path / "tokenizer")
    stream = TinyStories("roneneldan/TinyStories", heldout="validation", tokenizer="gpt2")
    assert (stream.source, stream.heldout, stream.tokenizer) == ("roneneldan/TinyStories", "validation", "gpt2")


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_end_of_text_inside_a_text_ends_a_story(
    tmp_path: Path, kind: str, gpt2_tokenizer_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stories = [f"Story {number} is short and soon over. The end." for number in range(60)]
    # Two stories a text, and one text that merely ends in the marker.
    glued = [f"{stories[i]} {MARKER}{stories[i + 1]}" for i in range(0, 58, 2)]
    options = {"tokenizer": str(gpt2_tokenizer_folder), "context_length": 4}
    want = prepared(write(tmp_path / "whole.txt", stories), **options)
    with caplog.at_level(logging.WARNING):
        path = write_as(tmp_path / f"glued.{kind}", [*glued, f"{stories[58]}{MARKER}", stories[59]])
        got = prepared(path, **options)
    for name in ("train", "heldout"):
        samples = got.train_set if name == "train" else got.evaluation_sets[name]
        expected = want.train_set if name == "train" else want.evaluation_sets[name]
        assert torch.equal(samples.windows, expected.windows)
        assert not (samples.windows == 50256).any()
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"29 end-of-text tokens ({MARKER}) inside texts of {path}")


def test_line_ends_byte_order_mark_and_own_marker(tmp_path: Path) -> None:
    want = prepared(write(tmp_path / "unix.txt", numbered(40)))
    dos = [story.replace("\n", "\r\n") for story in numbered(40)]
    path = tmp_path / "dos.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "".join(f"{story}\r\n=====\r\n" for story in dos).encode())
    assert texts(prepared(str(path), story_marker="=====")) == texts(want)


def test_the_last_story_needs_no_marker(tmp_path: Path) -> None:
    want = texts(prepared(write(tmp_path / "a.txt", numbered(40))))
    path = tmp_path / "a.txt"
    path.write_text(path.read_text().removesuffix(f"\n{MARKER}\n"))
    assert texts(prepared(str(path))) == want


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "folder"])
def test_every_kind_of_source_gives_the_same_windows(tmp_path: Path, kind: str) -> None:
    stories = numbered(40)
    want = prepared(write(tmp_path / "a.txt", stories))
    if kind != "folder":
        source = Path(write_as(tmp_path / f"a.{kind}", stories))
    else:
        table = pyarrow.table({"text": stories, "length": [len(story) for story in stories]})
        source = tmp_path / "dataset"
        source.mkdir()
        pyarrow.parquet.write_table(table.slice(0, 25), source / "train-00000-of-00002.parquet")
        pyarrow.parquet.write_table(table.slice(25), source / "train-00001-of-00002.parquet")
    got = prepared(str(source))
    assert texts(got) == texts(want)
    assert texts(got, "heldout") == texts(want, "heldout")
    assert got.fingerprint() == want.fingerprint()


def test_held_out_split_of_a_data_set_and_another_column(tmp_path: Path) -> None:
    for split, stories in (("train", numbered(40, first=10)), ("validation", numbered(10))):
        pyarrow.parquet.write_table(pyarrow.table({"story": stories}), tmp_path / f"{split}.parquet")
    stream = prepared(str(tmp_path), heldout="validation", text_column="story")
    assert story_numbers(stream, "heldout") == set(range(10))
    assert story_numbers(stream, "train") == set(range(10, 40))


def test_splits_of_a_data_set_on_the_hub_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    splits = {"train": numbered(40), "validation": numbered(10)}

    def load_dataset(name: str, *, split: str, streaming: bool) -> datasets.IterableDataset:
        assert (name, streaming) == ("owner/name", True)
        return datasets.IterableDataset.from_generator(lambda: ({"text": story} for story in splits[split]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    stream = prepared("owner/name", heldout="validation")
    assert story_numbers(stream, "heldout") == set(range(10))
    assert story_numbers(stream, "train") == set(range(10, 40))
    same = prepared("owner/name", heldout="owner/name")
    assert same.fingerprint() == prepared("owner/name").fingerprint()


def test_as_many_windows_as_asked_for_and_reading_stops_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write(path, numbered(6000))
    # Reading to the end would fail on this.
    path.write_bytes(path.read_bytes() + b"\xff\xfe broken")
    stream = prepared(str(path), n_sequences=21, n_heldout_sequences=5)
    assert (len(stream.train_set), len(stream.evaluation_sets["heldout"])) == (21, 5)
    more = prepared(str(path), n_sequences=30)
    assert len(more.evaluation_sets["heldout"]) == 30
    assert texts(more)[:21] == texts(stream)


def test_too_few_windows_are_said_and_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write(tmp_path / "a.txt", numbered(40))
    everything = prepared(source)
    count = len(everything.train_set)
    with caplog.at_level(logging.WARNING):
        stream = prepared(source, n_sequences=count)
        assert not [record for record in caplog.records if "training" in record.message]
        stream = prepared(source, n_sequences=count + 1, n_heldout_sequences=1)
    assert texts(stream) == texts(everything)
    assert f"gives {count} training windows of 8 tokens, fewer than the {count + 1} asked for" in caplog.text


def test_windows_per_story_takes_a_few_from_each_wherever_they_are(tmp_path: Path) -> None:
    stories = [f"{number:02d}" + "".join(f"-{number:02d}.{part:02d}-." for part in range(20)) for number in range(60)]
    source = write(tmp_path / "a.txt", stories)
    stream = prepared(source, windows_per_story=3)
    windows = texts(stream)
    whole = [story for story in stories if any(window in cut([story]) for window in windows)]
    chosen = [[cut([story]).index(window) for window in windows if window in cut([story])] for story in whole]
    assert all(len(places) == 3 and places == sorted(set(places)) for places in chosen)
    assert len({tuple(places) for places in chosen}) > len(whole) // 2
    assert {place for places in chosen for place in places} >= {0, 19}
    assert texts(prepared(source, windows_per_story=3)) == windows
    assert texts(prepared(source, windows_per_story=3, seed=1)) != windows
    # What is chosen in one story does not depend on the others.
    fewer = prepared(write(tmp_path / "b.txt", stories[30:]), windows_per_story=3)
    assert set(texts(fewer)) <= set(windows)


def test_batches_hold_token_ids_and_identities(tmp_path: Path) -> None:
    stream = prepared(write(tmp_path / "a.txt", numbered(40)), batch_size=7)
    train, heldout = stream.train_set, stream.evaluation_sets["heldout"]
    seen = []
    for batch in stream.train_dataloader():
        assert batch.inputs.dtype == torch.int64
        assert torch.equal(batch.inputs, train.windows[batch.sample_id].long())
        seen += batch.sample_id.tolist()
    assert len(seen) == len(set(seen)) == len(train) // 7 * 7
    assert seen != sorted(seen)
    (loader,) = stream.val_dataloader()
    ids = [i for batch in loader for i in batch.sample_id.tolist()]
    assert ids == list(range(len(train), len(train) + len(heldout)))
    assert train.repeats


def test_fingerprint_follows_the_windows(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", numbered(40))
    same = prepared(source).fingerprint()
    assert prepared(source, batch_size=3, num_workers=1).fingerprint() == same
    assert prepared(write(tmp_path / "b.txt", numbered(40))).fingerprint() == same
    changes = [{"seed": 1}, {"context_length": 9}, {"n_sequences": 9}, {"windows_per_story": 2}]
    assert len({same, *(prepared(source, **change).fingerprint() for change in changes)}) == 5
    assert prepared(write(tmp_path / "a.txt", [*numbered(39), "Another last story."])).fingerprint() != same


def test_real_stories_with_a_real_tokenizer(tinystories_file: Path, gpt2_tokenizer_folder: Path) -> None:
    stream = TinyStories(str(tinystories_file), n_sequences=500, tokenizer=str(gpt2_tokenizer_folder), seed=0)
    stream.setup()
    train, heldout = stream.train_set, stream.evaluation_sets["heldout"]
    assert train.windows.shape == heldout.windows.shape == (500, 16)
    assert train.windows.max() < 50257
    whole = tinystories_file.read_text(encoding="utf-8")
    first = heldout.describe(heldout.first_id, 15)
    assert whole.count(first["before"].replace("↵", "\n")) == 1
    assert heldout.describe(heldout.first_id)["text"].replace("↵", "\n") in whole
    assert MARKER not in "".join(train.describe(i)["text"] for i in range(500))


@pytest.mark.slow
def test_two_million_tokens_take_seconds(tinystories_file: Path, gpt2_tokenizer_folder: Path) -> None:
    stream = TinyStories(str(tinystories_file), tokenizer=str(gpt2_tokenizer_folder), seed=0)
    begun = time.monotonic()
    stream.setup()
    assert time.monotonic() - begun < 20
    assert len(stream.train_set) + len(stream.evaluation_sets["heldout"]) > 120_000
