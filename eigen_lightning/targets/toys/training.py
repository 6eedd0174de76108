"""Training of tiny networks: several restarts at once, again with fresh ones until a good one is there."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.run.waiting import Waiting

Ensemble = dict[str, Tensor]
"""The parameters of all restarts by name, each of shape ``[restarts, *shape]``."""


@dataclass(frozen=True)
class Trained:
    """The network that training chose.

    Attributes:
        weights: its parameters by name, float32.
        loss: its final loss.
        score: how good it is, see :meth:`ToyProblem.scores`.
        rounds: how many rounds of restarts were trained.
        restarts: how many restarts that were.
    """

    weights: dict[str, Tensor]
    loss: float
    score: float
    rounds: int
    restarts: int


class ToyProblem(ABC):
    """What a tiny network is trained to do, for all restarts at once.

    Attributes:
        name: what the progress bar calls it.
        restarts: how many networks are trained together.
        steps: steps of Adam.
        learning_rate: its learning rate at the first step; falls to 0 along half a cosine.
        accepted_score: a network that scores less is not taken.
    """

    name: str
    restarts: ClassVar[int] = 8
    steps: ClassVar[int]
    learning_rate: ClassVar[float]
    accepted_score: float

    @abstractmethod
    def initial(self, generator: torch.Generator) -> Ensemble:
        """Random parameters to start from."""

    @abstractmethod
    def losses(self, ensemble: Ensemble, generator: torch.Generator) -> Float[Tensor, " restarts"]:
        """Each restart's loss on a batch drawn from the generator."""

    @abstractmethod
    def final_losses(self, ensemble: Ensemble) -> Float[Tensor, " restarts"]:
        """Each trained restart's loss, on what all rounds share, so that it can be compared."""

    @abstractmethod
    def scores(self, ensemble: Ensemble) -> Float[Tensor, " restarts"]:
        """How good each trained restart is; more is better."""


def train_until_accepted(problem: ToyProblem, seed: int, max_rounds: int) -> Trained:
    """Train rounds of restarts until one is accepted; of several accepted ones, the one with the lowest loss is taken.

    Uses no random numbers but its own and one thread, so that nothing around it changes the result.

    Args:
        problem: what to train.
        seed: of the starting points and batches; each round derives its own from it.
        max_rounds: how many rounds to try.

    Returns:
        The network chosen. Where none was accepted in any round, the best by score, whose ``score`` then lies below
        ``problem.accepted_score``.
    """
    best: Trained | None = None
    with one_thread():
        for round_ in range(1, max_rounds + 1):
            generator = torch.Generator().manual_seed(derive_seed(seed, "training", problem.name, round_))
            ensemble = train_ensemble(problem, generator)
            # Judged in the precision in which the weights are kept.
            ensemble = {name: tensor.float() for name, tensor in ensemble.items()}
            scores, losses = problem.scores(ensemble), problem.final_losses(ensemble)
            accepted = scores >= problem.accepted_score
            if accepted.any():
                chosen = losses.where(accepted, torch.inf).argmin()
            else:
                chosen = scores.argmax()
            if best is None or scores[chosen] > best.score:
                weights = {name: tensor[chosen].clone() for name, tensor in ensemble.items()}
                loss, score = losses[chosen].item(), scores[chosen].item()
                best = Trained(weights, loss, score, round_, round_ * problem.restarts)
            if accepted.any():
                return best
    assert best is not None, "max_rounds is at least 1"
    return Trained(best.weights, best.loss, best.score, max_rounds, max_rounds * problem.restarts)


def train_ensemble(problem: ToyProblem, generator: torch.Generator) -> Ensemble:
    """Train all restarts together with Adam; they share batches and are otherwise independent."""
    ensemble = {name: tensor.requires_grad_() for name, tensor in problem.initial(generator).items()}
    optimizer = torch.optim.Adam(list(ensemble.values()), lr=problem.learning_rate, fused=True)
    with Waiting(f"training {problem.name}", problem.steps) as waiting:
        for step in range(problem.steps):
            for group in optimizer.param_groups:
                group["lr"] = problem.learning_rate * (1 + math.cos(math.pi * step / problem.steps)) / 2
            optimizer.zero_grad()
            # A sum: the gradient of each restart's loss by its own weights.
            problem.losses(ensemble, generator).sum().backward()
            optimizer.step()
            if step % 50 == 49:
                waiting.reach(step + 1)
    return {name: tensor.detach() for name, tensor in ensemble.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, and sums split over threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
