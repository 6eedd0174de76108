"""A matrix whose rows are shared out among processes: exchanged for columns, and what is computed in that form.

A product over columns, as the Gram matrix is, needs all rows of some columns rather than some rows: each process then
has a share of it, and their sum is the whole. No process ever holds more of the matrix than its share, in one form or
the other.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from eigen_lightning.learning.polar_factor import gram, make_polar


def shares(size: int, processes: int) -> list[int]:
    """How many of ``size`` rows or columns each process has: as DTensor's ``Shard`` cuts them."""
    each = -(-size // processes)
    return [max(0, min(each, size - each * rank)) for rank in range(processes)]


def as_dtensor(rows: Float[Tensor, "k P"], mesh: Any, shape: torch.Size) -> Tensor:
    """The ``[K, P]`` matrix of which each process of a mesh gives its rows."""
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=shape, stride=(shape[1], 1))


class SharedRows:
    """How the rows of ``[K, P]`` matrices are shared out among a group of processes, and what these do together.

    Everything here is a collective of the group.

    Args:
        group: the processes.
        n_rows: K.
        width: P.

    Attributes:
        first: number of this process's first row.
        count: how many rows it has.
    """

    def __init__(self, group: Any, n_rows: int, width: int) -> None:
        self.group = group
        self.n_rows, self.width = n_rows, width
        rank, processes = dist.get_rank(group), dist.get_world_size(group)
        self._rows, self._columns = shares(n_rows, processes), shares(width, processes)
        self.count, self._own_columns = self._rows[rank], self._columns[rank]
        self.first = sum(self._rows[:rank])

    def to_columns(self, rows: Float[Tensor, "k P"]) -> Float[Tensor, "K p"]:
        """From this process's rows to its columns of all rows.

        Not DTensor's own redistribution: on CPUs that gathers the whole matrix on every process.
        """
        sent = torch.cat([part.reshape(-1) for part in rows.split(self._columns, dim=1)])
        got = sent.new_empty(self.n_rows * self._own_columns)
        sizes = [self.count * columns for columns in self._columns]
        dist.all_to_all_single(got, sent, [rows_ * self._own_columns for rows_ in self._rows], sizes, group=self.group)
        return got.view(self.n_rows, self._own_columns)

    def to_rows(self, columns: Float[Tensor, "K p"]) -> Float[Tensor, "k P"]:
        """The inverse of :meth:`to_columns`."""
        sizes = [self.count * columns_ for columns_ in self._columns]
        got = columns.new_empty(sum(sizes))
        sent = columns.contiguous().view(-1)
        dist.all_to_all_single(got, sent, sizes, [rows * self._own_columns for rows in self._rows], group=self.group)
        parts = zip(got.split(sizes), self._columns, strict=True)
        return torch.cat([part.view(self.count, columns_) for part, columns_ in parts], dim=1)

    def gather(self, rows: Tensor) -> Tensor:
        """All rows on every process: for what is small, as ``[K, samples]``, never for ``[K, P]``.

        Args:
            rows: this process's, ``[k, ...]``.
        """
        each = self._rows[0]
        padded = rows.new_zeros(each, *rows.shape[1:])
        padded[: len(rows)] = rows
        got = rows.new_empty(each * len(self._rows), *rows.shape[1:])
        dist.all_gather(list(got.split(each)), padded, group=self.group)
        # Only the last processes have fewer rows than the first: what was padded lies at the end.
        return got[: self.n_rows]

    def whole_on_first(self, rows: Float[Tensor, "k P"]) -> Float[Tensor, "K P"] | None:
        """All rows, on the CPU of the group's first process; None on the others."""
        first = dist.get_global_rank(self.group, 0)
        rows = rows.detach().contiguous()
        if dist.get_rank(self.group) != 0:
            if self.count:
                dist.send(rows, first, group=self.group)
            return None
        whole = torch.empty(self.n_rows, self.width, dtype=rows.dtype)
        received = torch.empty_like(rows) if rows.device.type != "cpu" else None
        for process, part in enumerate(whole.split(self._rows)):
            if process == 0:
                part.copy_(rows)
            elif len(part):
                into = part if received is None else received[: len(part)]
                dist.recv(into, dist.get_global_rank(self.group, process), group=self.group)
                if received is not None:
                    part.copy_(into)
        return whole

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        dist.all_reduce(tensor, group=self.group)
        return tensor

    def gram(self, columns: Float[Tensor, "k p"]) -> Float[Tensor, "k k"]:
        """``M M^T`` of a matrix in columns, or of some of its rows; float64."""
        return gram(columns, self.sum)

    def polar(self, rows: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
        """The polar factor of the whole matrix, in groups of at most P rows, as ``polar.polar_rows`` has it.

        Two matrices of this process's share are alive at a time, besides the one given.
        """
        columns = self.to_columns(rows)
        first = sum(self._columns[: dist.get_rank(self.group)])
        for part in columns.chunk(-(-self.n_rows // self.width), dim=0):
            make_polar(part, slice(first, first + self._own_columns), self.width, self.sum)
        return self.to_rows(columns)
