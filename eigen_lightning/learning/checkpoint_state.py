"""What a checkpoint holds of a decomposition beside U and the optimizers: primitives alone."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from eigen_lightning.curvature import Scale
from eigen_lightning.run.errors import UserError

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
