"""Where the rows of U are: all of them on every process, or some on each."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from eigen_lightning.learning.polar import polar_rows
from eigen_lightning.learning.row_parallel import RowParallel
from eigen_lightning.learning.shared_rows import SharedRows, as_dtensor
from eigen_lightning.run.collectives import reduced
from eigen_lightning.run.errors import UserError


class Whole:
    """U whole on every process, the samples split over them: one process, or any strategy of the DDP family.

    Attributes:
        replicas: over how many processes samples are split.
        replica: which share of the samples this process sees.
        samples_group: the processes that see the other samples; None for all.
        shared: whether the rows of U are shared out among processes.
        first: number of the first direction that this process evaluates.
        leads: whether :meth:`whole` gives this process U: one of those that see the same samples.
    """

    shared = False
    first = 0
    leads = True
    samples_group: Any = None

    def __init__(self, replicas: int, replica: int) -> None:
        self.replicas, self.replica = replicas, replica

    def parameter(self, rows: Float[Tensor, "k P"]) -> nn.Parameter:
        """U from this process's rows."""
        return nn.Parameter(rows)

    def own(self, n_directions: int) -> slice:
        """Which of K directions this process evaluates."""
        return slice(0, n_directions)

    def local(self, matrix: Tensor) -> Float[Tensor, "k P"]:
        """This process's rows, without gradient; writing to them writes to the matrix."""
        return matrix.detach()

    def like(self, U: Tensor, rows: Float[Tensor, "k P"]) -> Tensor:
        """This process's rows as a matrix of U's kind, its gradient for one."""
        return rows

    def whole(self, U: Tensor) -> Float[Tensor, "K P"] | None:
        """All of U where this process leads, else None; called on every process."""
        return U.detach()

    def gather(self, rows: Tensor) -> Tensor:
        """``[K, ...]`` from this process's ``[k, ...]``."""
        return rows

    def sum_over_rows(self, tensor: Tensor) -> Tensor:
        """The sum of what each process made of its rows."""
        return tensor

    def all_agree(self, holds: bool) -> bool:
        """Whether something holds of the rows of every process."""
        return holds

    def agreed(self, value: Any) -> Any:
        """What the leading process says."""
        return value

    def polar(self, rows: Float[Tensor, "*batch k P"]) -> Float[Tensor, "*batch k P"]:
        """The polar factor's rows, as :func:`polar_rows` has it."""
        return polar_rows(rows)

    def cosines(self, unit: Float[Tensor, "k P"]) -> tuple[Float[Tensor, "K K"], Callable[[Tensor], Tensor]]:
        """All cosines, and the function ``W -> W U`` from ``[K, K]`` to this process's rows of the product."""
        return unit @ unit.T, lambda weights: weights @ unit

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the processes that see other samples."""
        return reduced(tensor, "mean", self.samples_group)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes that see other samples."""
        return reduced(tensor, "sum", self.samples_group)

    def of_all_samples(self, tensor: Float[Tensor, " n"]) -> Float[Tensor, "replicas n"]:
        """What every process that sees other samples has, as much on each."""
        if self.replicas == 1:
            return tensor[None]
        found = tensor.new_empty(self.replicas, len(tensor))
        torch.distributed.all_gather(list(found.unbind()), tensor.contiguous(), group=self.samples_group)
        return found


class SplitByRows(Whole):
    """Some rows of U on each process, which evaluates them on all samples: for a U too large for one device.

    On a mesh with a second dimension, each of its columns holds all of U and a share of the samples.

    Args:
        mesh: dimensions ``data_parallel`` and ``tensor_parallel``, as Lightning's ModelParallelStrategy makes it.
        device: this process's.
        n_directions: K.
        size: P.

    Raises:
        UserError: where a process would have no row.
    """

    shared = True

    def __init__(self, mesh: Any, device: torch.device, n_directions: int, size: int) -> None:
        super().__init__(mesh["data_parallel"].size(), mesh["data_parallel"].get_local_rank())
        self._device = device
        self._mesh = mesh["tensor_parallel"]
        processes = self._mesh.size()
        each = -(-n_directions // processes)
        if each * (processes - 1) >= n_directions:
            raise UserError(
                f"expected model.n_directions that {processes} devices can share by rows, {each} each, got "
                f"{n_directions}, which leaves one without: use {-(-n_directions // each)} devices"
            )
        self.samples_group = mesh["data_parallel"].get_group()
        self._shared = SharedRows(self._mesh.get_group(), n_directions, size)
        self.first = self._shared.first
        self.leads = self._mesh.get_local_rank() == 0

    def parameter(self, rows: Float[Tensor, "k P"]) -> nn.Parameter:
        return nn.Parameter(self._sharded(rows.to(self._device)))

    def own(self, n_directions: int) -> slice:
        return slice(self.first, self.first + self._shared.count)

    def local(self, matrix: Any) -> Float[Tensor, "k P"]:
        return matrix.detach().to_local()

    def like(self, U: Tensor, rows: Float[Tensor, "k P"]) -> Tensor:
        return self._sharded(rows)

    def whole(self, U: Tensor) -> Float[Tensor, "K P"] | None:
        return self._shared.whole_on_first(self.local(U))

    def gather(self, rows: Tensor) -> Tensor:
        return self._shared.gather(rows)

    def sum_over_rows(self, tensor: Tensor) -> Tensor:
        return self._shared.sum(tensor.clone())

    def all_agree(self, holds: bool) -> bool:
        return not self._shared.sum(torch.tensor(float(not holds), device=self._device))

    def agreed(self, value: Any) -> Any:
        values = [value]
        first = torch.distributed.get_global_rank(self._shared.group, 0)
        torch.distributed.broadcast_object_list(values, first, group=self._shared.group)
        return values[0]

    def polar(self, rows: Float[Tensor, "*batch k P"]) -> Float[Tensor, "*batch k P"]:
        if rows.ndim == 2:
            return self._shared.polar(rows)
        return torch.stack([self.polar(each) for each in rows])

    def cosines(self, unit: Float[Tensor, "k P"]) -> tuple[Float[Tensor, "K K"], Callable[[Tensor], Tensor]]:
        columns = self._shared.to_columns(unit)
        return self._shared.gram(columns).to(unit), lambda weights: self._shared.to_rows(weights @ columns)

    def _sharded(self, rows: Float[Tensor, "k P"]) -> Tensor:
        return as_dtensor(rows, self._mesh, torch.Size((self._shared.n_rows, self._shared.width)))


def layout_of(trainer: Any, n_directions: int, size: int) -> Whole:
    """How this trainer's strategy lays U out.

    Raises:
        UserError: where the strategy shares out models in a way of its own.
    """
    if isinstance(trainer.strategy, RowParallel):
        return SplitByRows(trainer.strategy.device_mesh, trainer.strategy.root_device, n_directions, size)
    if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
        raise UserError(
            "expected trainer.strategy of the DDP family, or row_parallel to split U over devices, got "
            f"{type(trainer.strategy).__name__}: use row_parallel"
        )
    return Whole(trainer.world_size, trainer.global_rank)
