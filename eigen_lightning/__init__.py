"""Which directions in a trained network's parameter space carry its features?

    import eigen_lightning as el

    run = el.fit(model, loader, parameters=["layer2.*"], divergence="kl", n_directions=10)
    run = el.load("runs/mine")

Every name is imported when it is first used: torch takes a second, Lightning another.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eigen_lightning.api.fit import fit
    from eigen_lightning.api.run import Run, compare, load
    from eigen_lightning.api.study import study  # type: ignore[import-not-found,unused-ignore]
    from eigen_lightning.curvature.divergence import Divergence
    from eigen_lightning.data import TMS, XOR, FromLoader, Grammar, SampleStream, TinyStories
    from eigen_lightning.learning import SparseEigendecomposition
    from eigen_lightning.run.errors import UserError
    from eigen_lightning.targets import GrammarTransformer, Network, Target, TMSTarget, Transformer, XORTarget

_PLACES = {
    "fit": "api.fit",
    "load": "api.run",
    "compare": "api.run",
    "study": "api.study",
    "Run": "api.run",
    "SparseEigendecomposition": "learning",
    "Target": "targets",
    "Network": "targets",
    "Transformer": "targets",
    "GrammarTransformer": "targets",
    "TMSTarget": "targets",
    "XORTarget": "targets",
    "SampleStream": "data",
    "FromLoader": "data",
    "TMS": "data",
    "XOR": "data",
    "TinyStories": "data",
    "Grammar": "data",
    "Divergence": "curvature.divergence",
    "UserError": "run.errors",
}

__all__ = [
    "TMS",
    "XOR",
    "Divergence",
    "FromLoader",
    "Grammar",
    "GrammarTransformer",
    "Network",
    "Run",
    "SampleStream",
    "SparseEigendecomposition",
    "TMSTarget",
    "Target",
    "TinyStories",
    "Transformer",
    "UserError",
    "XORTarget",
    "compare",
    "fit",
    "load",
    "study",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
