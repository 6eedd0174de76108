"""The strategy ``row_parallel``: U split over devices by rows."""

from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.optimizer import _optimizer_to_device
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy, StrategyRegistry
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from eigen_lightning.learning.shared_rows import SharedRows, as_dtensor
from eigen_lightning.run.errors import UserError


class RowParallel(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy, with checkpoints that one process can read, and that change nothing.

    U is a DTensor, cut by rows along the mesh's dimension ``tensor_parallel``; samples are split along
    ``data_parallel``. What this mends, of Lightning 2.6 and torch 2.13:

    - To write a checkpoint, ModelParallelStrategy asks ``torch.distributed.checkpoint.state_dict`` for the optimizers'
      states, which gives an optimizer without a state one by a step on a gradient of zeros: PolarAscent would lose U in
      the checkpoint before the first batch, and Adam's count of steps would be one ahead from there on.
    - It reads a checkpoint past the CheckpointIO, so that a damaged one or one of another program is not told apart.

    A checkpoint is one file with U and the optimizers' states whole, as one process writes it: each of them is put
    together on the CPU of the first process, to be written from there. To resume, every process reads the file on its
    host and keeps its rows.

    Args:
        data_parallel_size: over how many groups of devices samples are split; ``auto`` is the number of nodes.
        tensor_parallel_size: over how many devices U is split; ``auto`` is the number of devices of a node.
        process_group_backend: ``nccl``, ``gloo``; null takes what fits the device.
    """

    strategy_name = "row_parallel"

    def __init__(
        self,
        data_parallel_size: Any = "auto",
        tensor_parallel_size: Any = "auto",
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(data_parallel_size, tensor_parallel_size, False, process_group_backend)

    def setup_environment(self) -> None:
        processes = self.num_nodes * self.num_processes
        data = self.num_nodes if self._data_parallel_size == "auto" else self._data_parallel_size
        rows = self.num_processes if self._tensor_parallel_size == "auto" else self._tensor_parallel_size
        if data * rows != processes:
            raise UserError(
                f"expected data_parallel_size times tensor_parallel_size to be the number of devices, {processes}, got "
                f"{data} times {rows}: leave both at auto, or set both"
            )
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self._put_together(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        return self._put_together(optimizer.state_dict())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        kept = {name: _shared_out(tensor, own.get(name)) for name, tensor in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(kept, strict=strict)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, kept in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            params = [param for group in optimizer.param_groups for param in group["params"]]
            state = {
                number: {name: _shared_out(value, params[number]) for name, value in of_param.items()}
                for number, of_param in kept["state"].items()
            }
            optimizer.load_state_dict({**kept, "state": state})
            _optimizer_to_device(optimizer, self.root_device)

    def _put_together(self, state: Any) -> Any:
        """State with every DTensor whole, on the CPU of the first process; None for it on the others."""
        if isinstance(state, dict):
            return {key: self._put_together(value) for key, value in state.items()}
        if isinstance(state, list | tuple):
            return type(state)(self._put_together(value) for value in state)
        if isinstance(state, DTensor):
            # Of several copies of U one is written.
            if self.device_mesh["data_parallel"].get_local_rank() != 0:
                return None
            return SharedRows(state.device_mesh.get_group(), *state.shape).whole_on_first(state.to_local())
        return state


def _shared_out(tensor: Any, like: Any) -> Any:
    """This process's rows of a whole tensor, as a DTensor where ``like`` is one of its shape."""
    if not (isinstance(tensor, Tensor) and isinstance(like, DTensor) and tensor.shape == like.shape):
        return tensor
    shared = SharedRows(like.device_mesh.get_group(), *like.shape)
    own = tensor[shared.first : shared.first + shared.count].to(like.to_local(), copy=True)
    return as_dtensor(own, like.device_mesh, like.shape)


StrategyRegistry.register(RowParallel.strategy_name, RowParallel, description="U split over devices by rows")
