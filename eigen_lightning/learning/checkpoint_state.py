"""What a checkpoint holds of a decomposition beside U and the optimizers: primitives alone."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from eigen_lightning.curvature import Scale
from eigen_lightning.run.errors import UserError

if TYPE_CHECKING:
    from eigen_lightning.learning.module import SparseEigendecomposition

KEY = "decomposition"


@dataclass(frozen=True)
class Learned:
    """What the start of a run decides for the rest of it.

    Attributes:
        scale: what d2D is divided by; None leaves it as it is.
        objective: what stage 1 climbs.
        exponent: of d2D in it.
        gains: of the greedy choice, relative to the first; empty where nothing was chosen.
        sharing: how many directions share a sample; None where it was not measured.
    """

    scale: Scale | None
    objective: Literal["coverage", "steepness"]
    exponent: float
    gains: list[float] = field(default_factory=list)
    sharing: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Primitives, as checkpoint and manifest hold them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Learned":
        """The inverse of :meth:`to_json`."""
        scale = values["scale"]
        return cls(**{**values, "scale": None if scale is None else Scale(**scale)})


def settings_of(module: "SparseEigendecomposition") -> dict[str, Any]:
    """What a resumed run must have in common with its checkpoint, primitives alone."""
    stage1, stage2 = (
        None if make is None else type(make([module.U])).__name__ for make in (module.make_stage1, module.make_stage2)
    )
    return {
        "target": module.target.fingerprint(),
        "n_directions": module.wanted_directions,
        "divergence": type(module.divergence).__name__,
        "curvature": module.method,
        "objective": module.objective_name,
        "exponent": module.exponent,
        "dense_exponent": module.dense_exponent,
        "stage1": stage1,
        "stage2": stage2,
        "interference_weight": module.interference_weight,
        "interference_form": module.interference_form,
        "stage2_curvature": module.stage2_curvature,
        "normalization": None if module.normalization is None else asdict(module.normalization),
        "directions": None if module.factors is None else asdict(module.factors),
        "readout": module.readout,
    }


def check_same(saved: dict[str, Any], current: dict[str, Any], prefix: str = "model.") -> None:
    """Refuse to go on from a checkpoint with other settings than it was written with.

    Raises:
        UserError: naming the first setting that differs, with both values.
    """
    for name in sorted({*saved, *current}):
        if saved.get(name) != current.get(name):
            raise UserError(
                f"expected {prefix}{name} of {saved.get(name)} as the checkpoint was written with, got "
                f"{current.get(name)}: set it back, or start a new run"
            )
