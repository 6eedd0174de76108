"""A network of a person's own: any module, outputs of any shape."""

import copy
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from eigen_lightning.curvature.divergence import Divergence
from eigen_lightning.run.errors import UserError, nearest
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.tensor_tree import TensorTree
from eigen_lightning.targets.target import Target

log = logging.getLogger(__name__)

Select = str | int | Callable[[Any], Tensor]

DIFFERENT_IN_TRAINING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)


class Network(Target):
    """Any trained ``nn.Module``, in evaluation mode; the module itself is copied and stays as it is.

    Inputs are a tensor, or a dict or tuple of tensors, all with the samples as their first dimension. A tuple's parts
    are the module's positional arguments. A dict's are keyword arguments where the module's ``forward`` has parameters
    of all these names, and otherwise one argument, the dict.

    Attributes:
        module: as given.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Sequence[str] = ("*",),
        divergence: str | Divergence = "mse",
        sample_dims: Sequence[int] | None = None,
        select: Select | None = None,
        check: bool = True,
    ) -> None:
        """
        Args:
            module: with its trained weights.
            parameters: names or globs of the parameters to decompose, as ``named_parameters`` has them.
            divergence: ``mse``, ``kl`` or ``cross_entropy``, or an object of your own, where a run names none.
            sample_dims: which dimensions of the outputs are samples: the first, and those of positions. All others are
                outputs. None takes all but the last as samples (``[batch, *positions, n]``), and ``[batch]`` as one
                output a sample. For ``[batch, classes, height, width]``: (0, 2, 3) for samples that are pixels, (0,)
                for samples that are images.
            select: which of several outputs: a dict's key, a tuple's index or a function of what the module returns.
            check: refuse a network whose curvature is not that of its true divergence.

        Raises:
            UserError: where the module is one that functional calls cannot take.
        """
        super().__init__(parameters)
        for wrapper, inner in ((nn.DataParallel, "module"), (nn.parallel.DistributedDataParallel, "module")):
            if isinstance(module, wrapper):
                module = getattr(module, inner)
        # What torch.compile makes.
        module = getattr(module, "_orig_mod", module)
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                "expected an nn.Module in Python, got a ScriptModule, whose parameters cannot be exchanged: give the "
                "module that it was scripted from"
            )
        if not isinstance(module, nn.Module):
            raise UserError(f"expected an nn.Module, got {type(module).__name__}")
        self.module = module
        self.default_divergence = divergence
        self.sample_dims = None if sample_dims is None else tuple(sample_dims)
        self.select = select
        self.check = check

    def network_with_weights(self, run: RunFolder) -> nn.Module:
        """A copy of the module: no run changes the one that was given."""
        changed = [
            name or type(part).__name__
            for name, part in self.module.named_modules()
            if part.training and isinstance(part, DIFFERENT_IN_TRAINING)
        ]
        if changed:
            log.warning(
                "%s is in training mode and is decomposed in evaluation mode, in which %s compute otherwise",
                type(self.module).__name__,
                ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else ""),
            )
        try:
            return copy.deepcopy(self.module)
        # What torch says of tensors that are computed and kept, as the old weight_norm does until its next forward, and
        # Python of locks and open files.
        except (RuntimeError, TypeError):
            log.warning("%s cannot be copied: the module itself is frozen and decomposed", type(self.module).__name__)
            return self.module

    def load(self, run: RunFolder) -> None:
        """Copy the module, freeze the copy and choose its parameters.

        Raises:
            UserError: where a pattern in ``parameters`` matches nothing.
        """
        super().load(run)
        # A dict, as what inspect returns cannot be copied.
        self._parameters = dict(inspect.signature(self.network.forward).parameters)

    def outputs(self, weights: Mapping[str, Tensor], inputs: Any) -> Float[Tensor, "batch *positions n_out"]:
        """The outputs with the chosen parameters set to ``weights``, samples in front; pure.

        Raises:
            UserError: where it is not known which of several outputs, or which of their dimensions, are meant.
        """
        args: tuple[Any, ...] = (inputs,)
        kwargs: dict[str, Any] = {}
        if isinstance(inputs, TensorTree):
            args = inputs.parts
            if inputs.names is not None:
                args, kwargs = ((), inputs.value) if self._takes(inputs.names) else ((inputs.value,), {})  # type: ignore[assignment]
        by_path = {self._network_names[name]: tensor for name, tensor in weights.items()}
        returned = functional_call(self.network, by_path, args, kwargs)
        return as_samples(selected(returned, self.select), self.sample_dims, len(inputs))

    def _takes(self, names: Sequence[str]) -> bool:
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in self._parameters.values())
        return takes_any or all(name in self._parameters for name in names)

    def config(self) -> dict[str, Any]:
        """What makes this target the one it is."""
        select = self.select if isinstance(self.select, str | int) else getattr(self.select, "__qualname__", None)
        dims = None if self.sample_dims is None else list(self.sample_dims)
        return {**super().config(), "network": type(self.module).__name__, "sample_dims": dims, "select": select}

    def facts(self, run: RunFolder) -> dict[str, Any]:
        """The name that a report shows."""
        return {"name": type(self.module).__name__}


def selected(returned: Any, select: Select | None) -> Tensor:
    """The tensor that is meant of what a network returns.

    Raises:
        UserError: where there are several and none is chosen, or the one chosen is not there.
    """
    if callable(select):
        chosen = select(returned)
    elif isinstance(returned, Tensor):
        chosen = returned
    elif isinstance(returned, Mapping):
        if not isinstance(select, str) or select not in returned:
            given = "none" if select is None else repr(select) + nearest(str(select), map(str, returned))
            raise UserError(
                f"expected `select` to name one of the network's outputs, {', '.join(map(repr, returned))}, got {given}"
            )
        chosen = returned[select]
    elif isinstance(returned, tuple | list):
        if not isinstance(select, int) or not -len(returned) <= select < len(returned):
            raise UserError(
                f"expected `select` to be the index of one of the network's {len(returned)} outputs, from 0, got "
                f"{'none' if select is None else repr(select)}"
            )
        chosen = returned[select]
    else:
        raise UserError(
            f"expected a network that returns a tensor, or a dict or tuple of them, got {type(returned).__name__}: "
            "give a function as `select` that takes the tensor out of it"
        )
    if not isinstance(chosen, Tensor) or not chosen.is_floating_point():
        what = str(chosen.dtype) if isinstance(chosen, Tensor) else type(chosen).__name__
        raise UserError(f"expected an output of real numbers, got {what}: choose another one with `select`")
    return chosen


def as_samples(output: Tensor, sample_dims: tuple[int, ...] | None, batch: int) -> Tensor:
    """An output with its samples in front and all else as one last dimension, ``[batch, *positions, n_out]``.

    Args:
        output: of the network.
        sample_dims: see :class:`Network`.
        batch: samples in the inputs.

    Raises:
        UserError: where the first dimension is not the samples', or nothing tells samples and outputs apart.
    """
    shape = list(output.shape)
    if output.ndim == 0 or shape[0] != batch:
        raise UserError(
            f"expected outputs whose first dimension is that of the {batch} samples, got shape {shape}: return outputs "
            "before any mean or loss, samples first, or choose others with `select`"
        )
    if sample_dims is None:
        if output.ndim > 3:
            positions = ", ".join(map(str, range(2, output.ndim)))
            raise UserError(
                f"expected `sample_dims` for outputs of shape {shape}, which could be read in several ways, got none: "
                f"(0, {positions}) where dimension 1 is the classes, "
                f"({', '.join(map(str, range(output.ndim - 1)))}) where the last is, (0,) for one sample an input"
            )
        return output.unsqueeze(-1) if output.ndim == 1 else output
    if any(not -output.ndim <= dim < output.ndim for dim in sample_dims):
        raise UserError(f"expected sample_dims of outputs of shape {shape}, got {sample_dims}")
    chosen = sorted({dim % output.ndim for dim in sample_dims})
    if 0 not in chosen:
        raise UserError(f"expected sample_dims with the first dimension, 0, in them, got {sample_dims}")
    others = [dim for dim in range(output.ndim) if dim not in chosen]
    if not others:
        return output.unsqueeze(-1)
    return output.permute(*chosen, *others).flatten(len(chosen))
