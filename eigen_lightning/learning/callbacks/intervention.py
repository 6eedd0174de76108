"""Causal checks of every direction when training ends, and for ``eigen-lightning intervene``."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from eigen_lightning.analysis.intervention import (
    REFERENCE,
    SPAN,
    Intervention,
    Samples,
    equally_sensitive,
    intervene,
    random_directions,
)
from eigen_lightning.data.stream import SampleSet
from eigen_lightning.learning.callbacks.effects import effects_on
from eigen_lightning.learning.callbacks.evaluation import run_folder_of
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.seeding import derive_seed, run_seed
from eigen_lightning.run.waiting import Waiting

POOL = 4096
"""Samples from which random ones are drawn."""

MANY_CONTROLS_UP_TO = 512
"""Parameters up to which random directions cost nothing."""

LEAST_RANDOM = 20
"""Random samples at least, where a direction has fewer top samples."""


class Interventions(Callback):
    """Writes ``interventions.json``: each direction's causal check.

    Args:
        n_examples: top samples a direction; a quarter of the held-out samples at most.
        steps: steps on each side.
        controls: random directions a direction; null takes 16 for few parameters, where they cost nothing, else 2.
        matched: draw random samples that are as sensitive as the top ones; otherwise from all held-out ones alike.
        most_directions: directions that are checked, evenly spaced among all of them where there are more.

    Raises:
        UserError: where a number is out of range.
    """

    def __init__(
        self,
        n_examples: int = 20,
        steps: int = 7,
        controls: int | None = None,
        matched: bool = True,
        most_directions: int = 32,
    ) -> None:
        least = {"n_examples": 1, "steps": 3, "controls": 1, "most_directions": 1}
        of = {"n_examples": n_examples, "steps": steps, "controls": controls or 1, "most_directions": most_directions}
        for name, value in of.items():
            if value < least[name]:
                raise UserError(f"expected {name} of at least {least[name]}, got {value}")
        self.most_directions = most_directions
        self.n_examples, self.steps, self.controls, self.matched = n_examples, steps, controls, matched

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = run_folder_of(trainer)
        directions = pl_module.U.detach()
        if trainer.is_global_zero and run.top_examples.exists():
            run.write_json(run.interventions, self.check(pl_module, trainer.datamodule, run, directions))  # type: ignore[attr-defined]

    def check(
        self, module: Any, data: Any, run: RunFolder, directions: Float[Tensor, "K P"] | None = None
    ) -> dict[str, Any]:
        """The content of ``interventions.json``, from the run's top examples.

        Args:
            module: with its directions and its loaded target.
            data: its samples.
            run: the folder that holds the top examples.
            directions: U, where the module does not have all of it.
        """
        directions = module.U.detach() if directions is None else directions
        everything = run.read_top_examples()
        # Each costs some thousand passes of the network: of many directions a sample says as much.
        lines = everything[:: -(-len(everything) // self.most_directions)]
        samples = data.evaluation_sets["heldout"]
        pool = SensitivityPool(module, samples)
        checked = []
        with Waiting("Moving the weights along each direction", len(lines)) as waiting:
            for line in lines:
                direction = directions[line["direction"]].to(module.device)
                checked.append(self._one(module, samples, pool, line, direction))
                waiting.reach(len(checked))
        alive = [each for each in checked if each["deltas"]]
        return {
            "n_examples": self.n_examples,
            "n_directions": len(everything),
            "matched": self.matched,
            "controls": self._controls(module),
            "predicted_span": list(SPAN),
            "reference": REFERENCE,
            "median_selectivity": _median([each["selectivity"] for each in alive]),
            "median_control_selectivity": _median([each["control_selectivity"] for each in alive]),
            "directions": checked,
        }

    def _controls(self, module: Any) -> int:
        return self.controls or (16 if module.target.space.size <= MANY_CONTROLS_UP_TO else 2)

    def _one(
        self,
        module: Any,
        samples: SampleSet,
        pool: "SensitivityPool",
        line: dict[str, Any],
        direction: Float[Tensor, " P"],
    ) -> dict[str, Any]:
        k = line["direction"]
        examples = line["examples"][: max(1, min(self.n_examples, pool.available // 4))]
        curvature = sum(example["value"] for example in examples) / len(examples)
        if not curvature > 0:
            return {"direction": k, "deltas": []}
        seed = derive_seed(run_seed(), "intervention", k)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.tensor([example["sample_id"] for example in examples])
        position = None
        if pool.position is not None:
            position = torch.tensor([example["position"] for example in examples])
        top = pool.samples(samples, ids, position)
        count = max(len(examples), LEAST_RANDOM)
        if self.matched:
            drawn = equally_sensitive(pool.sensitivity, pool.sensitivity_of(samples, ids, position), count, generator)
        else:
            drawn = torch.randint(len(pool.sensitivity), (count,), generator=generator)
        random = pool.samples(samples, pool.sample_id[drawn], None if pool.position is None else pool.position[drawn])
        controls = random_directions(self._controls(module), module.target.space.size, seed).to(direction)
        found = intervene(module.target, module.divergence, direction, controls, curvature, top, random, self.steps)
        return {
            "direction": k,
            **_as_json(found),
            "effects": effects_on(module, samples, top, direction, curvature, examples),
        }


class SensitivityPool:
    """Held-out samples, with how much a random step of the chosen parameters moves the output on each.

    Attributes:
        available: held-out samples in all.
        sample_id: identity of each pool sample.
        position: its position; None where samples have none.
        sensitivity: of each pool sample.
    """

    position: Int[Tensor, " pool"] | None = None

    def __init__(self, module: Any, samples: SampleSet) -> None:
        self._module, seed = module, derive_seed(run_seed(), "sensitivity")
        each = self._positions(samples)
        self.available = len(samples) * max(1, each)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(self.available, generator=generator)[:POOL].sort().values
        index = chosen // max(1, each)
        self.sample_id = samples.batch(0, index).sample_id
        if each:
            self.position = chosen % each
        parts = []
        with Waiting("Measuring how sensitive held-out samples are", len(chosen)) as waiting:
            for part in torch.arange(len(chosen)).split(64 if each else 1024):
                position = None if self.position is None else self.position[part]
                parts.append(self.sensitivity_of(samples, self.sample_id[part], position))
                waiting.reach(int(part[-1]) + 1)
        self.sensitivity = torch.cat(parts)

    def samples(self, of: SampleSet, sample_id: Tensor, position: Tensor | None) -> Samples:
        """The inputs of samples, on the module's device."""
        device = self._module.device
        return Samples(_batch_of(of, sample_id).inputs.to(device), None if position is None else position.to(device))

    def sensitivity_of(self, of: SampleSet, sample_id: Tensor, position: Tensor | None) -> Float[Tensor, " n"]:
        """How sensitive the samples named are: the trace of each one's Hessian."""
        batch = _batch_of(of, sample_id)
        batch = type(batch)(batch.inputs.to(self._module.device), batch.sample_id)
        traces = self._module.linearize(batch, of).trace.cpu()
        return traces if position is None else traces.flatten(1)[torch.arange(len(traces)), position]

    def _positions(self, samples: SampleSet) -> int:
        """How many positions a sample has; 0 where outputs have none."""
        weights, inputs = self._module.target.weights, samples.batch(0, torch.arange(1)).inputs.to(self._module.device)
        with torch.no_grad():
            outputs = self._module.target.outputs(weights, inputs)
        return outputs[0, ..., 0].numel() if outputs.ndim > 2 else 0


def _batch_of(samples: SampleSet, sample_id: Int[Tensor, " n"]) -> Any:
    return samples.batch(0, torch.tensor([samples.locate(identity)[1] for identity in sample_id.tolist()]))


def _as_json(found: Intervention) -> dict[str, Any]:
    half = len(found.deltas) // 2
    return {
        "deltas": found.deltas.tolist(),
        "predicted": found.predicted.tolist(),
        "top": found.learned.top.tolist(),
        "random": found.learned.random.tolist(),
        "control_top": found.control.top.tolist(),
        "control_random": found.control.random.tolist(),
        "selectivity": _finite(found.selectivity),
        "control_selectivity": _finite(found.control_selectivity),
        "departure": found.departure.tolist(),
        "departs_at": found.departs_at(),
        "asymmetry": found.asymmetry.tolist(),
        "reference_delta": float(found.deltas[found.reference[1]]),
        "reference_asymmetry": float(found.asymmetry[found.reference[1] - half]),
    }


def _finite(ratio: float) -> float | None:
    """JSON has no infinity: None where nothing at all moved on the random samples."""
    return ratio if math.isfinite(ratio) else None


def _median(ratios: list[float | None]) -> float | None:
    ranked = sorted(math.inf if ratio is None else ratio for ratio in ratios)
    if not ranked:
        return None
    middle = len(ranked) // 2
    return _finite(ranked[middle] if len(ranked) % 2 else (ranked[middle - 1] + ranked[middle]) / 2)
