"""Directions of a language model as Neuronpedia takes vectors: one on the residual stream, with activations on text.

Source of the format: the requests of github.com/hijohnnylin/neuronpedia-python (``vector/new``,
``activation/upload-batch``), read in November 2026.
"""

import re
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from eigen_lightning.analysis.vocabulary import leading_pair
from eigen_lightning.run.errors import UserError

if TYPE_CHECKING:
    from eigen_lightning.api.asked_run import AskedRun
    from eigen_lightning.targets.vocabulary import VocabularyReader

PLACES = {
    "attn.W_Q": ("hook_resid_pre", 0),
    "attn.W_K": ("hook_resid_pre", 0),
    "attn.W_V": ("hook_resid_pre", 0),
    "attn.W_O": ("hook_resid_pre", 1),
    "mlp.W_in": ("hook_resid_mid", 0),
    "mlp.W_gate": ("hook_resid_mid", 0),
    "mlp.W_out": ("hook_resid_pre", 1),
}
"""Where a matrix meets the residual stream: the hook, and how many layers on. What a layer's attention writes is read
by its own MLP first, and is there at the next layer's input too."""

WRITES = ("attn.W_O", "mlp.W_out")


def neuronpedia_lines(run: "AskedRun", model_id: str, strength: float, label: dict[int, str]) -> list[dict[str, Any]]:
    """For each direction the body of ``vector/new`` and the activations of ``activation/upload-batch``.

    The vector is the side on the residual stream of the leading singular pair of the matrix where the direction has
    most of its norm, in unit norm; activations are d2D of every token of its top windows.

    Args:
        run: of a language model, with cards.
        model_id: what Neuronpedia calls the model.
        strength: the default strength of steering.
        label: by direction, where it has one.

    Raises:
        UserError: where the target is no language model, no chosen matrix meets the residual stream, or the run has no
            cards.
    """
    # Not above: they load transformers.
    from eigen_lightning.targets.transformer import Transformer
    from eigen_lightning.targets.vocabulary import VocabularyReader

    if not isinstance(run.target, Transformer):
        raise UserError(f"expected a language model, got {type(run.target).__name__}, which has no residual stream")
    if not run.folder.cards.exists():
        raise UserError(f"expected {run.folder.cards}, which does not exist: fit with report, or the callback Cards")
    reader = VocabularyReader(run.target)
    names = [name for name in run.shapes if _place(name) is not None]
    if not names:
        raise UserError(
            f"expected a matrix of attention or MLP that meets the residual stream, got {', '.join(run.shapes)}"
        )
    return [
        {
            "direction": k,
            "vector": {
                "modelId": model_id,
                "vectorLabel": label.get(k, f"direction {k}"),
                "vectorDefaultSteerStrength": strength,
                **_vector(reader, {name: run.directions[name][k] for name in names}),
            },
            "activations": [{"tokens": each["tokens"], "values": each["values"]} for each in card["contexts"]],
        }
        for k, card in enumerate(run.folder.read_lines(run.folder.cards))
    ]


def _vector(reader: "VocabularyReader", parts: dict[str, Float[Tensor, "*shape"]]) -> dict[str, Any]:
    name = max(parts, key=lambda name: float(parts[name].norm()))
    place = _place(name)
    assert place is not None
    layer, leaf = place
    hook, later = PLACES[leaf]
    written, _, read = leading_pair(reader.oriented(name, parts[name].double().cpu()))
    vector = written if leaf in WRITES else read
    return {"layerNumber": layer + later, "hookType": hook, "vector": vector.tolist()}


def _place(name: str) -> tuple[int, str] | None:
    found = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
    return (int(found[1]), found[2]) if found is not None and found[2] in PLACES else None
