"""What a step along a direction does to the outputs: a toy model's numbers, a language model's tokens."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.analysis.intervention import Samples, moved_outputs
from eigen_lightning.curvature import Linearizer
from eigen_lightning.report.text import MOST_NUMBERS, one_line, visible

if TYPE_CHECKING:
    from eigen_lightning.data.stream import SampleSet

EFFECT = 0.1
"""Predicted divergence of the step at which effects are shown: large enough to matter, mostly within the quadratic."""

SHOWN_TOKENS = 8
SHOWN_PREDICTIONS = 3
SHOWN_CONTEXTS = 5
SHOWN_SAMPLES = 16
SHOWN_OUTPUTS = 10

LEAST_PROBABILITY = 1e-4
"""Tokens whose mean probability stays below this, before and after, are left out: most of a vocabulary never occurs
here, and its logits move freely without meaning anything."""


def effects_on(
    linearizer: Linearizer,
    samples: "SampleSet",
    top: Samples,
    direction: Float[Tensor, " P"],
    curvature: float,
    examples: list[dict[str, Any]],
) -> dict[str, Any]:
    """The outputs before and after one step each way.

    Args:
        linearizer: of the target, with its trained weights.
        samples: the held-out samples.
        top: the direction's top samples.
        direction: u, in unit norm.
        curvature: mean d2D of u on ``top``.
        examples: what a person sees of ``top``.

    Returns:
        ``delta``, the step; for a language model ``tokens`` and ``predictions``, otherwise ``outputs``.
    """
    delta = (2 * EFFECT / curvature) ** 0.5
    deltas = torch.tensor([0.0, delta, -delta], dtype=torch.float64)
    target = linearizer.network
    tokenizer = getattr(target, "tokenizer", None)
    if tokenizer is not None and top.position is not None:
        moved = torch.cat(list(moved_outputs(target, direction, deltas, top))).cpu()
        return {"delta": delta, **_on_tokens(moved, tokenizer, examples)}
    if len(samples) <= SHOWN_SAMPLES and top.position is None:
        # So few that all are shown: the truth table.
        batch = samples.batch(0, torch.arange(len(samples)))
        top = Samples(batch.inputs.to(direction.device))
        examples = [samples.describe(identity) for identity in batch.sample_id.tolist()]
    moved = torch.cat(list(moved_outputs(target, direction, deltas, top))).cpu()
    values = linearizer(top.inputs).d2D(direction[None])[0]
    if top.position is not None:
        values = values.flatten(1)[torch.arange(len(values)), top.position]
    # Of many outputs those that move most.
    change = (moved[1] - moved[2]).abs().mean(0)
    shown = change.topk(min(SHOWN_OUTPUTS, len(change))).indices.sort().values
    rows = zip(values.tolist(), *moved[..., shown].tolist(), strict=True)
    names = ("value", "before", "plus", "minus")
    outputs = [
        _sample(example) | dict(zip(names, row, strict=True)) for example, row in zip(examples, rows, strict=False)
    ]
    return {"delta": delta, "outputs": outputs, "shown_outputs": shown.tolist()}


def _sample(example: dict[str, Any]) -> dict[str, Any]:
    """What is said of a sample beside its outputs: numbers where it is some, one line otherwise."""
    if "input" in example and len(example["input"]) <= MOST_NUMBERS:
        return {"input": example["input"]}
    return {"sample": one_line(example)}


def _on_tokens(
    logits: Float[Tensor, "3 samples vocab"], tokenizer: Any, examples: list[dict[str, Any]]
) -> dict[str, Any]:
    log_p = logits.log_softmax(-1)
    probability = log_p.exp()
    mean = probability.mean(1)
    likely = (mean.amax(0) >= LEAST_PROBABILITY).nonzero().flatten()

    def text(token: int) -> str:
        return visible(tokenizer.decode([token], clean_up_tokenization_spaces=False))

    def listed(sign: int, change: Tensor, largest: bool) -> list[dict[str, Any]]:
        count = min(SHOWN_TOKENS, len(likely))
        best = likely[change[likely].topk(count, largest=largest).indices].tolist()
        return [
            {
                "token": text(token),
                "change": float(change[token]),
                "before": float(mean[0, token]),
                "after": float(mean[sign, token]),
            }
            for token in best
            if (change[token] > 0) == largest
        ]

    tokens = {}
    for sign, name in ((1, "plus"), (2, "minus")):
        # Logits are free up to a constant a sample: taken relative to what the model expected there.
        shift = logits[sign] - logits[0]
        change = (shift - (probability[0] * shift).sum(-1, keepdim=True)).mean(0)
        tokens[name] = {"rise": listed(sign, change, True), "fall": listed(sign, change, False)}
    best = probability[:, :SHOWN_CONTEXTS].topk(SHOWN_PREDICTIONS, dim=-1)
    predictions = [
        {
            "text": example["before"] + example["token"],
            **{
                name: [
                    [text(token), p]
                    for token, p in zip(best.indices[i, row].tolist(), best.values[i, row].tolist(), strict=True)
                ]
                for i, name in enumerate(("before", "plus", "minus"))
            },
        }
        for row, example in enumerate(examples[:SHOWN_CONTEXTS])
    ]
    return {"tokens": tokens, "predictions": predictions}
