"""Which settings of a decomposition go together, and which numbers are in range."""

from typing import Literal

from lightning.pytorch.cli import OptimizerCallable

from eigen_lightning.directions import Start
from eigen_lightning.run.errors import UserError


def check_numbers(
    n_directions: int | Literal["auto"],
    rows: int | None,
    interference_weight: float,
    memory_budget: float | None,
    cache_gib: float,
    exponent: float,
    dense_exponent: float,
) -> None:
    """Refuse numbers out of range, by name.

    Raises:
        UserError: where one is.
    """
    for name, count in {"n_directions": n_directions, "rows": rows}.items():
        if isinstance(count, int) and count < 1:
            raise UserError(f"expected model.{name} of at least 1, got {count}")
    amounts = {"interference_weight": interference_weight, "memory_budget": memory_budget, "cache_gib": cache_gib}
    for name, amount in amounts.items():
        if amount is not None and not 0 <= amount < float("inf"):
            raise UserError(f"expected model.{name} of at least 0, got {amount}")
    for name, power in {"exponent": exponent, "dense_exponent": dense_exponent}.items():
        if not 1 <= power <= 8:
            raise UserError(f"expected model.{name} in [1, 8], got {power}")


def check_shared_out(name: str, samples: int, processes: int) -> None:
    """Refuse an evaluation set of which a process would have no sample: Lightning would pass it over there, and the
    others would wait for it for ever.

    Raises:
        UserError: with both numbers.
    """
    if samples < processes:
        raise UserError(
            f"expected at least as many {name} samples as processes, got {samples} for {processes}: take more samples, "
            "or fewer devices"
        )


def check_factored(
    objective: str,
    start: Start | None,
    curvature: str,
    interference_weight: float,
    optimizer: OptimizerCallable | None,
) -> None:
    """Refuse settings that need dense rows.

    Raises:
        UserError: naming the first one.
    """
    wrong = {
        "objective": objective if objective == "steepness" else None,
        "start": "null" if start is None else None,
        "curvature": curvature if curvature == "nested" else None,
        "interference_weight": interference_weight or None,
        "stage1 or stage2": optimizer,
    }
    for name, value in wrong.items():
        if value is not None:
            raise UserError(
                f"expected factored directions to learn by coverage from the default start and steps, got "
                f"model.{name} {value}: leave it out, or leave out model.directions for dense rows"
            )
