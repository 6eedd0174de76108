"""Metric and trace of samples that return, computed once: the same d2D as without."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from eigen_lightning.curvature import KL, Linearizer, SampleCache, TraceNormalization
from tests.networks import SmallNetwork, transformer_network, unit_rows


class Windows:
    """Nine windows, numbered from 100."""

    name = "train"
    first_id = 100

    def __init__(self) -> None:
        self.tokens = torch.randint(50, (9, 6))

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, epoch: int, indices: Tensor) -> Any:
        return SimpleNamespace(inputs=self.tokens[indices], sample_id=self.first_id + indices)


@pytest.fixture
def prepared() -> tuple[SmallNetwork, Linearizer, Windows]:
    network, windows = transformer_network(), Windows()
    traces = TraceNormalization(exact_up_to=0, probes=2)
    return network, Linearizer.prepare(network, KL(), windows.tokens[:4], traces=traces), windows


@pytest.mark.parametrize("budget", [2**30, 100])
def test_cached_samples_give_the_same_d2d_and_trace_in_any_order_and_repeated(prepared, budget: int) -> None:
    """With 100 bytes metrics lie in a file."""
    network, linearizer, windows = prepared
    cache = SampleCache(linearizer, windows, 4, torch.device("cpu"), memory_budget=budget)
    U = unit_rows(3, network.space.size)
    for indices in ([1, 2, 1], [4, 5], [8, 0, 8, 8, 3], list(range(9))):
        batch = windows.batch(0, torch.tensor(indices))
        expected, got = linearizer(batch.inputs), cache.linearize(batch.inputs, batch.sample_id)
        torch.testing.assert_close(got.d2D(U), expected.d2D(U))
        torch.testing.assert_close(got.trace, expected.trace)


def test_nothing_is_computed_again(prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    network, linearizer, windows = prepared
    calls: list[int] = []
    pull_back = KL.pull_back
    monkeypatch.setattr(KL, "pull_back", lambda self, *args: calls.append(len(args[0])) or pull_back(self, *args))
    cache = SampleCache(linearizer, windows, 4, torch.device("cpu"))
    # Each sample's metric once.
    assert sum(calls) == 9 * 6
    cache.linearize(windows.tokens[:2], torch.tensor([100, 101])).d2D(unit_rows(2, network.space.size))
    assert sum(calls) == 9 * 6


def test_what_is_cached_does_not_depend_on_the_size_of_batches(prepared) -> None:
    network, linearizer, windows = prepared
    batch, U = windows.batch(0, torch.arange(9)), unit_rows(3, network.space.size)
    caches = [SampleCache(linearizer, windows, size, torch.device("cpu")) for size in (2, 9)]
    one, other = (cache.linearize(batch.inputs, batch.sample_id) for cache in caches)
    torch.testing.assert_close(one.d2D(U), other.d2D(U))
    torch.testing.assert_close(one.trace, other.trace)
