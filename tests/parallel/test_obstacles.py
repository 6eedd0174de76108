"""Why ``row_parallel`` is not ModelParallelStrategy as it is: what torch and Lightning do, in as few lines as it takes.

Where one of these fails, an obstacle is gone, and what RowParallel or SharedRows has against it can go too.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from eigen_lightning.learning import PolarAscent
from tests.parallel.together import together


def test_asking_for_an_optimizers_state_makes_it_step(tmp_path: Path) -> None:
    """Before the first step, where a run's first checkpoint is written; Lightning asks in ``optimizer_state``."""

    def run(rank: int) -> None:
        module = nn.Linear(4, 3, bias=False)
        adam = torch.optim.Adam(module.parameters(), lr=0.1)
        get_optimizer_state_dict(module, adam)
        assert adam.state[module.weight]["step"] == 1

        before = module.weight.detach().clone()
        get_optimizer_state_dict(module, PolarAscent(module.parameters()))
        assert not torch.equal(module.weight, before)

    together(1, run, tmp_path)


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_redistributing_a_dtensor_on_cpus_gathers_all_of_it(tmp_path: Path) -> None:
    def run(rank: int) -> None:
        mesh = init_device_mesh("cpu", (2,))
        shared = distribute_tensor(torch.randn(16, 32), mesh, [Shard(0)])
        with Largest() as largest:
            shared.redistribute(placements=[Shard(1)])
        assert shared.to_local().numel() == 16 * 32 // 2
        assert largest.numbers == 16 * 32

    together(2, run, tmp_path)


def test_checkpoints_are_read_past_the_checkpoint_io(tmp_path: Path) -> None:
    asked: list[Any] = []

    class Asked(TorchCheckpointIO):
        def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            asked.append(args)
            return super().load_checkpoint(*args, **kwargs)

    def run(rank: int) -> None:
        strategy = ModelParallelStrategy(save_distributed_checkpoint=False)
        strategy.checkpoint_io = Asked()
        module = LightningModule()
        module.U = nn.Parameter(distribute_tensor(torch.zeros(2, 3), init_device_mesh("cpu", (1,)), [Shard(0)]))
        strategy._lightning_module = strategy.model = module
        torch.save({"state_dict": {"U": torch.ones(2, 3)}}, tmp_path / "some.ckpt")
        strategy.load_checkpoint(tmp_path / "some.ckpt", weights_only=True)
        assert module.U.to_local().sum() == 6
        assert not asked

    together(1, run, tmp_path)
