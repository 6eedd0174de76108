"""Whether directions found the regularities that were planted in a text: one state of the grammar, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eigen_lightning.analysis.evaluation import Evaluated
from eigen_lightning.analysis.subject import EvaluationSamples

REACHED_ABOVE = 0.8
"""Share of a direction's normalized curvature on the tokens of a state from which on it has found the state."""


@dataclass(frozen=True)
class Planted:
    """Directions against the states of a grammar; nothing where samples have no states.

    Attributes:
        of_learned: for each learned direction its state, whether that needs context, and the share of its normalized
            curvature there on held-out text.
        figures: by set, ``states`` and ``context_states``: how many different states, and how many of those that the
            current word does not decide, have a direction with a share above 0.8.
    """

    of_learned: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)


def planted(samples: EvaluationSamples, heldout: Mapping[str, Evaluated], train: Mapping[str, Evaluated]) -> Planted:
    """Assign every direction of every set a state on training text and judge it on held-out text.

    Args:
        samples: that they were judged on.
        heldout: the sets as judged on held-out samples.
        train: the same on training samples; further sets are left out.
    """
    text: Any = samples.heldout_set
    if not hasattr(text, "states"):
        return Planted()
    context = text.context_states
    here, there = heldout["learned"].normalized, train["learned"].normalized
    states_here, states_there = _states(text, here.sample_id), _states(samples.train_set, there.sample_id)
    figures, of_learned = {}, []
    for name, judged in heldout.items():
        on_train = shares(there.values[train[name].rows], states_there, len(context))
        on_heldout = shares(here.values[judged.rows], states_here, len(context))
        state = on_train.argmax(1)
        share = on_heldout.gather(1, state[:, None])[:, 0]
        figures[name] = reached(state, share, context)
        if name == "learned":
            of_learned = [
                {"direction": k, "state": text.state_names[s], "needs_context": bool(context[s]), "share": p}
                for k, (s, p) in enumerate(zip(state.tolist(), share.tolist(), strict=True))
            ]
    return Planted(of_learned, figures)


def shares(
    values: Float[Tensor, "K windows length"], states: Int[Tensor, "windows length"], n_states: int
) -> Float[Tensor, "K states"]:
    """How much of each direction's normalized curvature falls on the tokens of each state.

    Args:
        values: d2D over trace.
        states: of each token; -1 where it is not known, which counts for no state.
        n_states: how many states there are.
    """
    curvature = values.flatten(1).double().clamp_min(0).cpu()
    known = states.flatten() >= 0
    sums = torch.zeros(len(curvature), n_states, dtype=torch.float64)
    sums.index_add_(1, states.flatten()[known], curvature[:, known])
    return sums / curvature.sum(1, keepdim=True).clamp_min(torch.finfo(sums.dtype).tiny)


def reached(state: Int[Tensor, " K"], share: Float[Tensor, " K"], context: Bool[Tensor, " states"]) -> dict[str, float]:
    """Different states that some direction has found, and those among them that need context.

    Args:
        state: of each direction, chosen on other text.
        share: of its normalized curvature there.
        context: which states need context.
    """
    distinct = state[share >= REACHED_ABOVE].unique()
    return {"states": float(len(distinct)), "context_states": float(context[distinct].sum())}


def _states(samples: Any, sample_id: Int[Tensor, " n"]) -> Int[Tensor, "n length"]:
    return samples.states[[samples.locate(identity)[1] for identity in sample_id.tolist()]]
