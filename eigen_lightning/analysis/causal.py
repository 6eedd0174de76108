"""Causal checks of every direction: true steps of the weights, on its top samples and on equally sensitive ones."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.analysis.effects import effects_on
from eigen_lightning.analysis.intervention import (
    REFERENCE,
    SPAN,
    Intervention,
    equally_sensitive,
    intervene,
    random_directions,
)
from eigen_lightning.analysis.sensitivity import SensitivityPool
from eigen_lightning.curvature import Linearizer
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.factored_rows import Rows
from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.run.waiting import Waiting

if TYPE_CHECKING:
    from eigen_lightning.data.stream import SampleSet

MANY_CONTROLS_UP_TO = 512
"""Parameters up to which random directions cost nothing."""

LEAST_RANDOM = 20
"""Random samples at least, where a direction has fewer top samples."""


@dataclass(frozen=True)
class CausalSettings:
    """How causal checks are made.

    Attributes:
        n_examples: top samples a direction; a quarter of the held-out samples at most.
        steps: steps on each side.
        controls: random directions a direction; None takes 16 for few parameters, where they cost nothing, else 2.
        matched: draw random samples that are as sensitive as the top ones; otherwise from all held-out ones alike.
        most_directions: directions that are checked, evenly spaced among all of them where there are more.

    Raises:
        UserError: where a number is out of range.
    """

    n_examples: int = 20
    steps: int = 7
    controls: int | None = None
    matched: bool = True
    most_directions: int = 32

    def __post_init__(self) -> None:
        least = {
            "n_examples": (self.n_examples, 1),
            "steps": (self.steps, 3),
            "controls": (self.controls or 1, 1),
            "most_directions": (self.most_directions, 1),
        }
        for name, (value, smallest) in least.items():
            if value < smallest:
                raise UserError(f"expected {name} of at least {smallest}, got {value}")


@dataclass(frozen=True)
class DirectionCheck:
    """The causal check of one direction.

    Attributes:
        direction: which.
        measured: what true steps did; None where the direction is dead.
        effects: the outputs before and after one step, see :func:`effects_on`.
    """

    direction: int
    measured: Intervention | None = None
    effects: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Its part of ``interventions.json``."""
        of = self.measured
        if of is None:
            return {"direction": self.direction, "deltas": []}
        return {
            "direction": self.direction,
            "deltas": of.deltas.tolist(),
            "predicted": of.predicted.tolist(),
            "top": of.learned.top.tolist(),
            "random": of.learned.random.tolist(),
            "control_top": of.control.top.tolist(),
            "control_random": of.control.random.tolist(),
            "selectivity": _finite(of.selectivity),
            "control_selectivity": _finite(of.control_selectivity),
            "departure": of.departure.tolist(),
            "departs_at": of.departs_at(),
            "asymmetry": of.asymmetry.tolist(),
            "reference_delta": float(of.deltas[of.reference[1]]),
            "reference_asymmetry": float(of.asymmetry[of.reference[1] - len(of.deltas) // 2]),
            "effects": self.effects,
        }


@dataclass(frozen=True)
class CausalChecks:
    """The causal checks of all directions.

    Attributes:
        settings: what they were made with.
        controls: random directions a direction.
        n_directions: all there are.
        directions: a check for each of those that were chosen.
    """

    settings: CausalSettings
    controls: int
    n_directions: int
    directions: tuple[DirectionCheck, ...]

    @property
    def median_selectivity(self) -> float | None:
        """Over the directions that are not dead; None where that is infinite or there is none."""
        return _median([each.measured.selectivity for each in self.directions if each.measured])

    @property
    def median_control_selectivity(self) -> float | None:
        """The same of the random directions."""
        return _median([each.measured.control_selectivity for each in self.directions if each.measured])

    def to_json(self) -> dict[str, Any]:
        """The content of ``interventions.json``."""
        return {
            "n_examples": self.settings.n_examples,
            "n_directions": self.n_directions,
            "matched": self.settings.matched,
            "controls": self.controls,
            "predicted_span": list(SPAN),
            "reference": REFERENCE,
            "median_selectivity": self.median_selectivity,
            "median_control_selectivity": self.median_control_selectivity,
            "directions": [each.to_json() for each in self.directions],
        }


def causal_checks(
    linearizer: Linearizer,
    samples: "SampleSet",
    directions: Rows,
    top_examples: Sequence[dict[str, Any]],
    seed: int,
    settings: CausalSettings = CausalSettings(),
) -> CausalChecks:
    """Move the weights along each direction, and measure that against random directions and random samples.

    Args:
        linearizer: of the target, with its trained weights.
        samples: the held-out samples.
        directions: U ``[K, P]``.
        top_examples: the content of ``top_examples.jsonl``: a line a direction, with its ``examples``.
        seed: where chance comes from.
        settings: how many samples, steps and controls.
    """
    pool = SensitivityPool(linearizer, samples, seed)
    space = linearizer.network.space
    controls = settings.controls or (16 if space.size <= MANY_CONTROLS_UP_TO else 2)
    checked: list[DirectionCheck] = []
    # Each costs some thousand passes of the network: of many directions a sample says as much.
    lines = top_examples[:: -(-len(top_examples) // settings.most_directions)]
    with Waiting("Moving the weights along each direction", len(lines)) as waiting:
        for line in lines:
            k = line["direction"]
            direction = directions[k].to(linearizer.origin.device)
            check = _check(linearizer, samples, pool, line, direction, derive_seed(seed, "intervention", k), controls,
                           settings)  # fmt: skip
            checked.append(check)
            waiting.reach(len(checked))
    return CausalChecks(settings, controls, len(top_examples), tuple(checked))


def _check(
    linearizer: Linearizer,
    samples: "SampleSet",
    pool: SensitivityPool,
    line: dict[str, Any],
    direction: Float[Tensor, " P"],
    seed: int,
    n_controls: int,
    settings: CausalSettings,
) -> DirectionCheck:
    examples = line["examples"][: max(1, min(settings.n_examples, pool.available // 4))]
    curvature = sum(example["value"] for example in examples) / len(examples)
    if not curvature > 0:
        return DirectionCheck(line["direction"])
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([example["sample_id"] for example in examples])
    position = None
    if pool.position is not None:
        position = torch.tensor([example["position"] for example in examples])
    top = pool.samples(samples, ids, position)
    count = max(len(examples), LEAST_RANDOM)
    if settings.matched:
        drawn = equally_sensitive(pool.sensitivity, pool.sensitivity_of(samples, ids, position), count, generator)
    else:
        drawn = torch.randint(len(pool.sensitivity), (count,), generator=generator)
    random = pool.samples(samples, pool.sample_id[drawn], None if pool.position is None else pool.position[drawn])
    network = linearizer.network
    controls = random_directions(n_controls, network.space.size, seed).to(direction)
    measured = intervene(network, linearizer.divergence, direction, controls, curvature, top, random, settings.steps)
    return DirectionCheck(
        line["direction"], measured, effects_on(linearizer, samples, top, direction, curvature, examples)
    )


def _finite(ratio: float) -> float | None:
    """JSON has no infinity: None where nothing at all moved on the random samples."""
    return ratio if math.isfinite(ratio) else None


def _median(ratios: list[float]) -> float | None:
    return _finite(statistics.median(ratios)) if ratios else None
