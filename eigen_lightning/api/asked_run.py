"""A run whose target is asked further: d2D on inputs of one's own, steps along directions."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigen_lightning.analysis.intervention import Intervention, Samples, intervene, random_directions
from eigen_lightning.api.stored_run import StoredRun
from eigen_lightning.curvature import Divergence, LinearizedBatch, Linearizer
from eigen_lightning.curvature.divergence import NAMED
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.factored_rows import blocks
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.tensor_tree import TensorTree
from eigen_lightning.targets import Target

SAMPLES_AT_ONCE = 256


class AskedRun(StoredRun):
    """A run with its target, made when it is first needed."""

    def __init__(
        self, folder: RunFolder, target: Target | None = None, divergence: Divergence | None = None, device: Any = None
    ) -> None:
        """
        Args:
            folder: of the run.
            target: loaded; None makes it from the manifest when it is first needed.
            divergence: None takes the manifest's.
            device: where the target goes; None leaves it where it is.

        Raises:
            UserError: where the folder holds no results.
        """
        super().__init__(folder)
        self._target, self._divergence, self._device = target, divergence, device
        self._prepared: Linearizer | None = None

    @cached_property
    def target(self) -> Target:
        """The target, loaded, with the weights that were decomposed.

        Raises:
            UserError: where it cannot be made from the run folder alone, or is another than was decomposed.
        """
        target = self._target
        if target is None:
            target = self._from_recipe()
        if not hasattr(target, "network"):
            target.load(self.folder)
        if target.fingerprint() != self.manifest["target_fingerprint"]:
            raise UserError(
                f"expected the target that was decomposed ({self.manifest['target_fingerprint'][:12]}), got another "
                f"({target.fingerprint()[:12]}): give the model with the weights it had then"
            )
        return target if self._device is None else target.to(self._device)

    @cached_property
    def divergence(self) -> Divergence:
        """How far outputs are apart.

        Raises:
            UserError: where it is one of your own, and was not given.
        """
        if self._divergence is not None:
            return self._divergence
        name = self.manifest["curvature"]["divergence"]
        known = {kind.__name__: kind for kind in NAMED.values()}
        if name not in known:
            raise UserError(
                f"expected the run's divergence, {name}, which is none of the package's: give it to load(path, "
                "divergence=...)"
            )
        return known[name]()

    @torch.no_grad()
    def d2D(self, inputs: Any) -> Float[Tensor, "K *samples"]:  # noqa: N802 - the name of the quantity
        """d2D of every direction on inputs: how much the output moves, to second order, per squared step.

        Args:
            inputs: ``[batch, ...]``, or several tensors as the network takes them (dict or tuple); of a language model
                also a text, whose tokens are the samples.

        Returns:
            ``[K, batch, *positions]``; of a text ``[K, tokens]``.
        """
        of_text = isinstance(inputs, str)
        batch = self._inputs(inputs)
        linearizer = self.linearizer(batch[:SAMPLES_AT_ONCE])
        parts = [
            self._d2D(linearizer(batch[start : start + SAMPLES_AT_ONCE]), batch.device)
            for start in range(0, len(batch), SAMPLES_AT_ONCE)
        ]
        values = torch.cat(parts, 1).cpu()
        return values[:, 0] if of_text else values

    def _d2D(self, batch: LinearizedBatch, device: torch.device) -> Tensor:  # noqa: N802
        if isinstance(self.rows, Tensor):
            return batch.d2D(self.rows.to(device))
        return torch.cat([batch.d2D(some.to(device)) for some in blocks(self.rows)])

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text, as :meth:`d2D` sees it."""
        return [self._tokenizer.decode([token]) for token in self._token_ids(text)]

    def linearizer(self, inputs: Any) -> Linearizer:
        """Linearizes the target as the run did.

        Args:
            inputs: a batch like those to come, ``[batch, ...]``.
        """
        inputs = inputs.to(next(self.target.network.parameters()).device)
        if self._prepared is None:
            curvature = self.manifest["curvature"]
            self._prepared = Linearizer.prepare(
                self.target,
                self.divergence,
                inputs,
                curvature["method"],
                curvature["pulled_back_metric"],
                n_directions=len(self),
            )
        return self._prepared

    @contextmanager
    def perturbed(self, k: int, delta: float) -> Iterator[Target]:
        """The target with weights ``W0 + delta u_k``; W0 again afterwards.

        Args:
            k: which direction.
            delta: the step, in the norm of the flat weights.
        """
        weights = self.target.weights
        kept = {name: tensor.clone() for name, tensor in weights.items()}
        step = self.target.space.unflatten(delta * self.rows[self._index(k)])
        try:
            with torch.no_grad():
                for name, tensor in weights.items():
                    tensor.add_(step[name].to(tensor))
            yield self.target
        finally:
            with torch.no_grad():
                for name, tensor in weights.items():
                    tensor.copy_(kept[name])

    def intervene(
        self, k: int, top: Any, random: Any, controls: int = 16, steps: int = 7, seed: int = 0
    ) -> Intervention:
        """What true steps along direction k do on inputs of one's own, beside random directions.

        Where outputs have positions, each of the top inputs is looked at where direction k is steepest, each of the
        others at a position drawn at random.

        Args:
            k: which direction.
            top: inputs on which it is steep, ``[n, ...]``, or a text.
            random: inputs to compare with.
            controls: random directions that the control is the mean of.
            steps: steps on each side.
            seed: of the random directions and positions.

        Raises:
            UserError: where the direction has no curvature on ``top``.
        """
        inputs, others = self._inputs(top), self._inputs(random)
        values = self.d2D(inputs)[self._index(k)]
        device, generator = inputs.device, torch.Generator().manual_seed(seed)
        there, elsewhere = Samples(inputs), Samples(others)
        if values.ndim > 1:
            steepest = values.flatten(1).max(1)
            values = steepest.values
            positions = self.d2D(others[:1])[k].numel()
            drawn = torch.randint(positions, (len(others),), generator=generator)
            there, elsewhere = Samples(inputs, steepest.indices.to(device)), Samples(others, drawn.to(device))
        along = random_directions(controls, self.rows.shape[1], seed).to(device, torch.float32)
        direction, curvature = self.rows[self._index(k)].to(device), float(values.mean())
        return intervene(self.target, self.divergence, direction, along, curvature, there, elsewhere, steps)

    def _from_recipe(self, **given: Any) -> Target:
        """The target as the manifest describes it, with what is given of it."""
        recipe = self.manifest["target"]["recipe"]
        package, _, name = recipe["class_path"].rpartition(".")
        own = not package.startswith(f"{__name__.partition('.')[0]}.")
        if own or (recipe["missing"] and not given):
            raise UserError(
                f"expected the model that was decomposed, a {self.manifest['target'].get('name', name)}, which the run "
                "folder does not hold: call eigen_lightning.load(path, model=...) with the module itself, or the name "
                "or folder of a language model"
            )
        kind = getattr(importlib.import_module(package), name)
        return kind(**{**recipe["init_args"], **given})

    def _with_model(self, model: Any) -> None:
        if isinstance(model, nn.Module):
            if not self.manifest["target"]["recipe"]["class_path"].endswith(".Network"):
                raise UserError(
                    f"expected a {self.manifest['target']['class']}, got a module: give the target itself as `model`, "
                    "or leave it out"
                )
            if "select" in self.manifest["target"]["recipe"]["missing"]:
                raise UserError(
                    "expected a Network, as the function that selects its output is not in the run folder: give "
                    "model=eigen_lightning.Network(module, parameters, select=...)"
                )
            self._target = self._from_recipe(module=model)
        elif isinstance(model, str | Path):
            if not self.manifest["target"]["recipe"]["class_path"].endswith(".Transformer"):
                raise UserError(
                    f"expected a {self.manifest['target']['class']}, got the name of a language model, {model}: give "
                    "the target itself as `model`, or leave it out"
                )
            self._target = self._from_recipe(name=str(model))
        elif isinstance(model, Target):
            self._target = model
        elif model is not None:
            raise UserError(
                "expected as `model` an nn.Module, a Target or the name or folder of a language model, got "
                f"{type(model).__name__}"
            )

    @property
    def _tokenizer(self) -> Any:
        tokenizer = getattr(self.target, "tokenizer", None)
        if tokenizer is None:
            raise UserError(f"expected inputs, got a text: {type(self.target).__name__} has no tokenizer to read it")
        return tokenizer

    def _token_ids(self, text: str) -> list[int]:
        # As data windows are made: a window in the middle of a story has no special tokens.
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _inputs(self, inputs: Any) -> Any:
        device = next(self.target.network.parameters()).device
        if isinstance(inputs, str):
            inputs = torch.tensor([self._token_ids(inputs)])
        elif isinstance(inputs, Mapping | tuple):
            inputs = TensorTree.of(inputs)
        elif not isinstance(inputs, Tensor | TensorTree):
            inputs = torch.as_tensor(inputs)
        self.target.check_inputs(inputs)
        return inputs.to(device)
