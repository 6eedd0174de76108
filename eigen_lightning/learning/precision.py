"""What of a step stays in float32 whatever the Trainer's precision."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Step = TypeVar("Step", bound=Callable[..., Any])


def in_float32(step: Step) -> Step:
    """Leave the Trainer's autocast out of a step.

    Steepness is of fourth order in the tangents and U is orthonormal to float32's precision: bfloat16's 8 bits would
    leave about 1e-3 of either. What precision saves here, the network's own passes, is chosen by the target's dtype.
    """

    @wraps(step)
    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self.device.type, enabled=False):
            return step(self, *args, **kwargs)

    return stepped  # type: ignore[return-value]
