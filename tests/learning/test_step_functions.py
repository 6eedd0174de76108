"""How much of the package one training step enters."""

import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

import eigen_lightning
from eigen_lightning.curvature import TraceNormalization
from eigen_lightning.data import TinyStories
from eigen_lightning.directions import Start
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.targets import Transformer
from tests.kinds import write_stories
from tests.targets.conftest import save_tiny_model
from tests.toy_runs import bare_trainer

FUNCTIONS, FILES = 20, 8
"""At most (issue 12)."""

ROOT = Path(eigen_lightning.__file__).parent


class Entered:
    """The package's own functions entered while a training step runs, comprehensions aside."""

    def __init__(self, module: SparseEigendecomposition) -> None:
        self.steps: list[set[str]] = []
        self._step = module.training_step
        module.training_step = self.step  # type: ignore[method-assign]

    def step(self, *args: Any) -> None:
        seen: set[CodeType] = set()

        def profile(frame: FrameType, event: str, _: Any) -> None:
            if event == "call":
                seen.add(frame.f_code)

        sys.setprofile(profile)
        try:
            self._step(*args)
        finally:
            sys.setprofile(None)
        own = [code for code in seen if Path(code.co_filename).is_relative_to(ROOT)]
        names = [code for code in own if code.co_name not in ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")]
        self.steps.append({f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_qualname}" for code in names})


def test_a_step_on_text_enters_few_functions_in_few_files(tmp_path: Path) -> None:
    """As in configs/tinystories.yaml; after the first epoch's first batch, when caches are there."""
    model = save_tiny_model(tmp_path / "model", "gpt_neo")
    write_stories(tmp_path)
    module = SparseEigendecomposition(
        Transformer(str(model), ["blocks.1.attn.W_K"]),
        3,
        exponent=2.0,
        normalization=TraceNormalization(power=1.0, exact_up_to=16, probes=4),
        start=Start(steps=2, samples=8),
    )
    data = TinyStories(
        source=str(tmp_path / "stories.txt"), context_length=8, n_sequences=16, n_heldout_sequences=8, batch_size=4
    )
    entered = Entered(module)
    bare_trainer(tmp_path, 2, limit_val_batches=0, log_every_n_steps=1).fit(module, datamodule=data)
    assert len(entered.steps) == 8
    assert module.linearizer.readout is not None
    for functions in entered.steps[1:]:
        files = {name.split(":")[0] for name in functions}
        listed = "\n".join(sorted(functions))
        assert len(functions) <= FUNCTIONS, f"{len(functions)} functions:\n{listed}"
        assert len(files) <= FILES, f"{len(files)} files:\n{listed}"
    assert torch.get_num_threads() == 1
