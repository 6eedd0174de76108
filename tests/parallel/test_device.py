"""What must hold on an accelerator: equal figures, and no tensor of a step on the host."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eigen_lightning.cli.main import main
from eigen_lightning.curvature import KL, Linearizer, TraceNormalization
from eigen_lightning.directions import Coverage, Steepness
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.run.folder import RunFolder
from tests.kinds import Kinds
from tests.networks import PLAIN, SmallNetwork, transformer_network, unit_rows
from tests.resume import runs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


TRACES = {
    "one probe": PLAIN,
    "eight probes": TraceNormalization(exact_up_to=0, probes=8),
    "exact": TraceNormalization(exact_up_to=4096),
}


def on_device(network: SmallNetwork) -> SmallNetwork:
    network.module.cuda()
    return network


@pytest.mark.parametrize("traces", TRACES.values(), ids=TRACES)
@pytest.mark.parametrize("objective", [Steepness(2.0), Coverage(3.0)], ids=["steepness", "coverage"])
@pytest.mark.parametrize("static", [False, True], ids=["plain", "traced"])
def test_curvature_is_that_of_the_host(traces: Any, objective: Any, static: bool) -> None:
    inputs, network = torch.randint(50, (6, 6)), transformer_network("body.norm1.*", "body.query.weight")
    network.static_graph = static
    rows = unit_rows(5, network.space.size)
    host = Linearizer.prepare(network, KL(), inputs, traces=traces)(inputs)
    expected = (*host.value_and_gradient(rows, objective), host.trace)
    device = Linearizer.prepare(on_device(network), KL(), inputs.cuda(), traces=traces)(inputs.cuda())
    got = (*device.value_and_gradient(rows.cuda(), objective), device.trace)
    for one, other in zip(got, expected, strict=True):
        assert one.is_cuda
        torch.testing.assert_close(one.cpu(), other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["xor", "tms", "file"])
def test_a_run_learns_what_it_learns_on_the_host(kinds: Kinds, kind: str, tmp_path: Path) -> None:
    found = {}
    for accelerator in ("cpu", "gpu"):
        config = kinds.config(kind)
        config["trainer"]["accelerator"] = accelerator
        folder = kinds.fresh(f"{kind}-{accelerator}")
        target = kinds.folder / f"{kind}-cpu" / "target.safetensors"
        if accelerator == "gpu" and target.exists():
            (folder / "target.safetensors").write_bytes(target.read_bytes())
        main(runs.arguments(config, folder))
        found[accelerator] = RunFolder(folder).read_directions()[0]
        assert json.loads((folder / "manifest.json").read_text())["status"] == "complete"
    cosine = (found["cpu"].double() * found["gpu"].double()).sum(1).abs()
    assert cosine.min() > 1 - 1e-4


class OnHost(TorchDispatchMode):
    """Notes operations that make tensors of more than one number on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        host = [each for each in tree_leaves(result) if isinstance(each, Tensor) and each.device.type == "cpu"]
        if any(each.numel() > 1 for each in host):
            self.seen.append(str(func))
        return result


@pytest.mark.parametrize("kind", ["tms", "file"])
def test_a_step_makes_no_tensor_on_the_host(kinds: Kinds, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = kinds.config(kind)
    config["trainer"] |= {"accelerator": "gpu", "max_epochs": 1, "log_every_n_steps": 1000}
    original: Callable[..., None] = SparseEigendecomposition.training_step
    seen: list[str] = []

    def step(self: SparseEigendecomposition, batch: Any, batch_idx: int) -> None:
        with OnHost() as host:
            original(self, batch, batch_idx)
        seen.extend(host.seen)

    monkeypatch.setattr(SparseEigendecomposition, "training_step", step)
    main(runs.arguments(config, kinds.fresh(f"host-{kind}")))
    assert not seen


def test_a_network_of_ones_own_on_a_device(tmp_path: Path) -> None:
    import eigen_lightning as el

    network = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    inputs = torch.rand(64, 6)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs), batch_size=16)
    run = el.fit(
        network,
        loader,
        parameters=["0.weight"],
        n_directions=3,
        run_dir=tmp_path / "run",
        trainer={"accelerator": "gpu"},
    )
    assert run.d2D(inputs).shape[:2] == (3, 64)
