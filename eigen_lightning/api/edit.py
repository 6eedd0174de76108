"""A step along one direction, as a model to save, with what it was measured to do."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.analysis.intervention import Samples, divergences
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import write_atomically

if TYPE_CHECKING:
    from eigen_lightning.api.asked_run import AskedRun


@dataclass(frozen=True)
class Edit:
    """The weights ``W0 + delta u_k``.

    Attributes:
        run: whose direction it is; its target keeps W0.
        k: the direction.
        delta: the step, in the norm of the flat weights.
    """

    run: "AskedRun"
    k: int
    delta: float

    @property
    def promised(self) -> dict[str, float] | None:
        """Mean divergence ``on`` the direction's top samples and ``off`` them, on random samples as sensitive.

        Interpolated, in the logarithm of both, between the steps that the run measured on this side.

        Returns:
            None where the run made no causal checks or the step is outside those measured.
        """
        if not self.run.folder.interventions.exists():
            return None
        curve = self.run.curve(self.k)
        side = curve.deltas.sign() == (1 if self.delta > 0 else -1)
        steps = curve.deltas[side].abs().numpy()
        order = steps.argsort()
        # The tolerance admits a measured step that was rounded when it was written down.
        least, most = steps[order[0]] * (1 - 1e-6), steps[order[-1]] * (1 + 1e-6)
        if not least <= abs(self.delta) <= most:
            return None
        values = {"on": curve.learned.top[side].numpy()[order], "off": curve.learned.random[side].numpy()[order]}
        tiny = np.finfo(float).tiny
        return {
            name: float(np.exp(np.interp(np.log(abs(self.delta)), np.log(steps[order]), np.log(value.clip(tiny)))))
            for name, value in values.items()
        }

    def divergences(self, inputs: Any) -> Float[Tensor, " *samples"]:
        """The true divergence of each sample's output from that of the unedited model, float64.

        Args:
            inputs: as of :meth:`Run.d2D`; of a text ``[tokens]``.
        """
        target, samples = self.run.target, self.run._inputs(inputs)
        direction = self.run.rows[self.k].to(samples.device)
        moved = divergences(
            target, self.run.divergence, direction, direction.new_tensor([self.delta]), Samples(samples)
        )[0].cpu()
        return moved[0] if isinstance(inputs, str) else moved

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the edited model with its tokenizer, so that plain transformers loads it, and ``edit.json``.

        Raises:
            UserError: where the target is no language model, or a chosen parameter is no part of the published weights.
        """
        from eigen_lightning.targets.editing import edited_model
        from eigen_lightning.targets.transformer import Transformer

        target, path = self.run.target, Path(folder)
        if not isinstance(target, Transformer):
            raise UserError(
                f"expected a language model to save for transformers, got {type(target).__name__}: take the edited "
                "weights from `run.perturbed(k, delta)`"
            )
        if path.resolve() == Path(target.name).expanduser().resolve():
            raise UserError(f"expected a folder of its own for the edited model, got that of the target, {path}")
        step = target.space.unflatten(self.delta * self.run.rows[self.k].double())
        edited_model(target, step).save_pretrained(path)
        target.tokenizer.save_pretrained(path)
        facts = {
            "direction": self.k,
            "delta": self.delta,
            "target_fingerprint": self.run.manifest["target_fingerprint"],
            "divergence": self.run.manifest["curvature"]["divergence"],
            "promised": self.promised,
        }
        write_atomically(path / "edit.json", (json.dumps(facts, indent=2) + "\n").encode())
        return path
