"""Causal checks of every direction when training ends."""

from lightning.pytorch import Callback, LightningModule, Trainer

from eigen_lightning.analysis.causal import CausalSettings, causal_checks
from eigen_lightning.learning.callbacks.evaluation import run_folder_of
from eigen_lightning.run.seeding import run_seed


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
        self.settings = CausalSettings(n_examples, steps, controls, matched, most_directions)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = run_folder_of(trainer)
        if trainer.is_global_zero and run.top_examples.exists():
            samples = trainer.datamodule.evaluation_sets["heldout"]  # type: ignore[attr-defined]
            lines = run.read_top_examples()
            U = pl_module.directions
            checks = causal_checks(pl_module.linearizer, samples, U, lines, run_seed(), self.settings)  # type: ignore[arg-type]
            run.write_json(run.interventions, checks.to_json())
