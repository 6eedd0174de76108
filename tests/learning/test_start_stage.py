"""The start of a run: what is computed once of its samples."""

from pathlib import Path
from typing import Any

import pytest
import torch

from eigen_lightning.curvature import TraceNormalization, linearize
from eigen_lightning.data import TMS
from eigen_lightning.directions import Start
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.targets.toys.residual_mlp import ResidualMLPTarget
from tests.toy_runs import bare_trainer


class Untrained(ResidualMLPTarget):
    """Twelve outputs, so that Jacobians are not written out and traces are had by rows."""

    steps = 1
    restarts = 1

    def __init__(self) -> None:
        super().__init__(features=12, neurons=12, dimensions=16, max_error=1e9)


def test_traces_are_computed_once_a_batch_however_many_steps_rows_climb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    computed: list[int] = []
    by_rows = linearize.trace_by_reverse_mode

    def counted(*args: Any) -> torch.Tensor:
        computed.append(1)
        return by_rows(*args)

    monkeypatch.setattr(linearize, "trace_by_reverse_mode", counted)
    module = SparseEigendecomposition(
        Untrained(), 4, objective="coverage", normalization=TraceNormalization(power=0.8),
        start=Start(steps=7, samples=128, sweeps=3, singular_vectors=False),
    )  # fmt: skip
    data = TMS(batch_size=64, samples_per_epoch=128, heldout_samples=64, seed=0)
    bare_trainer(tmp_path, 2, limit_val_batches=0).fit(module, data)
    start, epochs = 2, 2 * 2
    assert len(computed) == start + epochs
