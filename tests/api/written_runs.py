"""Run folders written without a fit: directions of any kind for a loaded target."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eigen_lightning.run.folder import RunFolder
from eigen_lightning.targets import Target


def write_run(path: Path, target: Target, U: Tensor, divergence: str = "KL", **facts: Any) -> RunFolder:
    """A finished run of ``target``, already loaded, that ``U`` is the outcome of."""
    run = RunFolder(path)
    run.write_directions(U, target.space.shape_of)
    run.write_json(
        run.manifest,
        {
            "status": "complete",
            "command": "eigen-lightning fit --data.source /home/someone/private.txt",
            "n_directions": len(U),
            "n_parameters": target.space.size,
            "parameters": target.space.shape_of,
            "target": {**target.config(), **target.facts(run), "recipe": target.recipe()},
            "target_fingerprint": target.fingerprint(),
            "curvature": {"divergence": divergence, "method": "gauss_newton", "pulled_back_metric": True},
            "data": {"class": "TMS", "source": "/home/someone/private.txt"},
            **facts,
        },
    )
    return run


def unit_rows(rows: int, target: Target) -> Tensor:
    """Random unit directions of a target, float32."""
    return torch.nn.functional.normalize(torch.randn(rows, target.space.size), dim=1)
