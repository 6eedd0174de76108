"""Samples of a person's own: what is taken from items of any kind, and how a person sees them."""

import base64
import io
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from eigen_lightning.data import FromLoader, source
from eigen_lightning.data.showing import described
from eigen_lightning.report.text import one_line
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.tensor_tree import TensorTree

X, Y = torch.arange(40.0).view(20, 2), torch.arange(20)


class Items(Dataset):
    """Items made by a function of the index."""

    def __init__(self, make: Any, length: int = 20) -> None:
        self.make, self.length = make, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(zip(X, Y, strict=True))


def sets(data: FromLoader) -> tuple[Any, Any]:
    data.setup()
    return data.train_set, data.evaluation_sets["heldout"]


@pytest.mark.parametrize(
    "source",
    [
        X,
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True),
        DataLoader(TensorDataset(X, Y), batch_size=None, sampler=torch.arange(20).split(6)),
        Stream(),
        DataLoader(Stream(), batch_size=6),
        Items(lambda i: {"x": X[i], "label": int(Y[i]), "name": f"sample {i}"}),
        [(X[i], int(Y[i])) for i in range(20)],
        Items(lambda i: (X[i].numpy(), i)),
    ],
)
def test_every_sample_is_either_learned_from_or_held_out(source: Any) -> None:
    train, heldout = sets(FromLoader(source, seed=0))
    assert (len(train), len(heldout)) == (18, 2)
    inputs = torch.cat([each.batch(0, torch.arange(len(each))).inputs for each in (train, heldout)])
    assert sorted(inputs.tolist()) == X.tolist()
    ids = torch.cat([each.batch(0, torch.arange(len(each))).sample_id for each in (train, heldout)])
    assert sorted(ids.tolist()) == list(range(20))
    for index in range(2):
        batch = heldout.batch(0, torch.tensor([index]))
        shown = heldout.describe(int(batch.sample_id))
        assert shown["input"] == batch.inputs[0].tolist()
        assert isinstance(source, torch.Tensor) or int(shown["label"]) == int(batch.inputs[0, 0]) // 2


def test_too_large_for_memory_is_read_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FromLoader(TensorDataset(X, Y), seed=0)
    monkeypatch.setattr(source, "IN_MEMORY", 1)
    read = FromLoader(TensorDataset(X, Y), seed=0)
    for one, other in zip(sets(whole), sets(read), strict=True):
        indices = torch.tensor([1, 0])
        assert torch.equal(one.batch(0, indices).inputs, other.batch(0, indices).inputs)
        assert one.describe(one.first_id) == other.describe(other.first_id)
    assert whole.fingerprint() == read.fingerprint()
    with pytest.raises(UserError, match="others the second time"):
        FromLoader(Items(lambda i: torch.rand(2)))


@pytest.mark.parametrize(
    ("item", "inputs", "names", "parts"),
    [
        (lambda i: {"a": X[i], "b": Y[i], "label": 1}, None, ("a", "b"), 2),
        (lambda i: (X[i], Y[i], 1), None, None, 2),
        (lambda i: (X[i], Y[i]), [0, 1], None, 2),
        (lambda i: {"a": X[i], "b": Y[i]}, ["a"], ("a",), 1),
    ],
)
def test_items_of_several_inputs_are_a_tree(item: Any, inputs: Any, names: Any, parts: int) -> None:
    train, _ = sets(FromLoader(Items(item), inputs=inputs))
    batch = train.batch(0, torch.arange(3)).inputs
    assert isinstance(batch, TensorTree)
    assert batch.names == names
    assert len(batch.parts) == parts


def test_one_named_input_is_a_tensor() -> None:
    train, _ = sets(FromLoader(Items(lambda i: {"a": X[i], "b": Y[i]}), inputs="b"))
    assert train.batch(0, torch.arange(3)).inputs.dtype == torch.int64


def test_held_out_samples_of_ones_own_and_identity() -> None:
    data = FromLoader(X, heldout=X + 100, batch_size=4)
    train, heldout = sets(data)
    assert (len(train), len(heldout), data.batch_size) == (20, 20, 4)
    assert data.fingerprint() != FromLoader(X, heldout=X, batch_size=4).fingerprint()
    assert FromLoader(X).identity() != FromLoader(X + 1).identity()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FromLoader(X[:1]), "at least 2"),
        (lambda: FromLoader(X[:0]), "empty"),
        (lambda: FromLoader(X, heldout_fraction=1.0), "heldout_fraction"),
        (lambda: FromLoader(iter([1])), "got list_iterator"),
        (lambda: FromLoader(Items(lambda i: object())), "put into one batch"),
        (lambda: FromLoader(Items(lambda i: X.flatten()[: i + 1])), "collate_fn pads"),
        (lambda: FromLoader(Items(lambda i: {"x": X[i], "y": 1}), inputs="z"), "'z'"),
        (lambda: FromLoader(Items(lambda i: {"name": "a"})), "with a tensor"),
    ],
)
def test_what_cannot_be_samples_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("inputs", "kind", "line"),
    [
        (torch.tensor([1.0, 2.5]), None, "[1, 2.5]"),
        (torch.tensor(3), None, "[3]"),
        (torch.arange(64.0), None, "64 numbers, 0 to 63"),
        (torch.rand(1, 8, 8).mul(0), "image", "image 1×8×8, 0 to 0"),
        (torch.ones(3, 5, 9), "image", "image 3×5×9, 1 to 1"),
        (torch.ones(5, 9, 3), "image", "image 5×9×3, 1 to 1"),
        (torch.ones(28, 28), "image", "image 28×28, 1 to 1"),
        (torch.ones(500), "series", "series 500, 1 to 1"),
        (torch.ones(50, 3), "series", "series 50×3, 1 to 1"),
        (torch.ones(7, 5, 5), "tensor", "tensor 7×5×5, 1 to 1"),
        (torch.ones(2, 0), "tensor", "tensor 2×0"),
        (torch.full((1, 4, 4), torch.nan), "image", "image 1×4×4, nan to nan"),
        (TensorTree.of({"a": torch.ones(1, 4, 4), "b": torch.tensor([1])}), "image", "a: image 1×4×4, 1 to 1, b: [1]"),
    ],
)
def test_inputs_are_shown_as_what_they_are(inputs: Any, kind: str | None, line: str) -> None:
    shown = described(inputs)
    assert shown.get("kind") == kind
    assert one_line(shown) == line


def test_an_image_is_drawn_from_its_least_to_its_greatest_number() -> None:
    pixels = torch.arange(16.0).view(1, 4, 4)
    picture = Image.open(io.BytesIO(base64.b64decode(described(pixels)["png"])))
    assert list(picture.tobytes()) == [17 * value for value in range(16)]


def test_token_ids_are_shown_as_text() -> None:
    tokens = torch.arange(20).repeat(20, 1)
    train, _ = sets(FromLoader(tokens, decode=lambda ids: "".join(chr(97 + i) for i in ids)))
    shown = train.describe(train.first_id, 3)
    assert (shown["before"], shown["token"], shown["after"]) == ("abc", "d", "efghijklmnopqrst")
    assert (shown["token_id"], shown["previous_token"], shown["position"]) == (3, "c", 3)
    assert train.describe(train.first_id)["text"] == "abcdefghijklmnopqrst"
