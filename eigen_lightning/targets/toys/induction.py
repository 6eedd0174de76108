"""Induction: a two-layer attention-only transformer that continues repeated random tokens.

Source: Olsson et al., "In-context Learning and Induction Heads", 2022.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.run.waiting import Waiting
from eigen_lightning.targets.toys.regression import check_sizes
from eigen_lightning.targets.toys.toy import ToyTarget

LAYERS = 2
HEADS = 2
BATCH = 64
LEARNING_RATE = 3e-3
CHECKED_EVERY = 100
SHORTEST = 4
"""Tokens of the shortest period; the longest is a third of a sequence, so that each is seen three times."""

MATRICES = ("W_Q", "W_K", "W_V", "W_O")


class InductionNetwork(nn.Module):
    """Embedding with positions, two layers of causal attention with two heads each, unembedding; nothing else.

    Attributes:
        W_E, W_U: ``[vocabulary, d]``.
        W_pos: ``[length, d]``.
        W_Q0 to W_O1: ``[d, d]``; rows by head, of W_O columns.
    """

    W_E: Tensor
    W_pos: Tensor
    W_U: Tensor

    def __init__(self, vocabulary: int, length: int, d: int) -> None:
        super().__init__()
        shapes = {"W_E": (vocabulary, d), "W_pos": (length, d), "W_U": (vocabulary, d)}
        shapes |= {f"{name}{layer}": (d, d) for layer in range(LAYERS) for name in MATRICES}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """Logits of the next token at each."""
        stream = self.W_E[tokens] + self.W_pos[: tokens.shape[1]]
        shape = (*stream.shape[:2], HEADS, -1)
        future = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).triu(1)
        for layer in range(LAYERS):
            query, key, value = ((stream @ getattr(self, f"W_{which}{layer}").mT).view(shape) for which in "QKV")
            scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
            pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
            mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, value).flatten(2)
            stream = stream + mixed @ getattr(self, f"W_O{layer}").mT
        return stream @ self.W_U.mT


class InductionTarget(ToyTarget):
    """Repeated random tokens of varying period, continued by a previous-token head and an induction head.

    Roles spread over heads, so that there is no truth to match: the figure ``leading_head`` says how much of a
    direction's norm lies in one of the four heads, ``in_one_head`` for how many directions that is above 0.8.
    """

    default_divergence = "kl"
    static_graph = True

    def __init__(
        self,
        vocabulary: int = 24,
        length: int = 32,
        d_model: int = 48,
        steps: int = 6000,
        accepted_loss: float = 0.05,
        parameters: Sequence[str] = ("W_[QKVO][01]",),
    ) -> None:
        """
        Args:
            vocabulary: different tokens.
            length: tokens a sequence.
            d_model: dimensions of the residual stream, an even number.
            steps: most steps of Adam.
            accepted_loss: cross entropy of tokens seen twice before, in nats, at which training ends.
            parameters: names or patterns of the parameters to decompose.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(parameters)
        check_sizes(vocabulary=vocabulary, d_model=d_model, steps=steps)
        if length < 3 * SHORTEST:
            raise UserError(f"expected a length of at least {3 * SHORTEST} tokens, got {length}; use 32, say")
        if d_model % HEADS:
            raise UserError(f"expected a d_model that {HEADS} heads divide, got {d_model}; use 48, say")
        self.vocabulary, self.length, self.d_model = vocabulary, length, d_model
        self.steps, self.accepted_loss = steps, accepted_loss
        self.n_inputs = length
        self.feature_names = []

    # There is no sample on which one head alone is at work.
    feature_inputs = None  # type: ignore[assignment]

    def build(self) -> InductionNetwork:
        """The network, all zeros."""
        return InductionNetwork(self.vocabulary, self.length, self.d_model)

    def draw(self, rows: int, generator: torch.Generator) -> Int[Tensor, "rows length"]:
        """Random tokens, each sequence repeated with a period of its own."""
        return self._drawn(rows, generator)[0]

    def train(self, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train until repeated tokens are foreseen.

        Raises:
            UserError: where they were not, with the loss.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "induction"))
        network = self.build()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * self.d_model**-0.5)
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
        recent: list[float] = []
        with Waiting("Training induction, at most", self.steps) as waiting:
            for step in range(1, self.steps + 1):
                tokens, period = self._drawn(BATCH, generator)
                losses = cross_entropy(network(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
                # The first time round nothing can be foreseen.
                repeated = torch.arange(1, self.length) > period[:, None]
                loss = losses[repeated].mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                third = torch.arange(1, self.length) >= 2 * period[:, None]
                recent = [*recent[-19:], float(losses.detach()[third].mean())]
                if step % CHECKED_EVERY == 0:
                    waiting.reach(step)
                    reached = sum(recent) / len(recent)
                    if reached < self.accepted_loss:
                        facts = {"seed": seed, "steps": step, "repeated_loss": reached}
                        return {name: part.detach().clone() for name, part in network.named_parameters()}, facts
        raise UserError(
            f"expected a network that continues repeated tokens, with a loss below {self.accepted_loss:g}, got "
            f"{sum(recent) / len(recent):.3g} after {self.steps} steps: raise steps, or take another seed"
        )

    def heads(self) -> dict[str, tuple[int, int]]:
        """Query, key and value by rows, output by columns."""
        return {name: (HEADS, int("_O" in name)) for name in self.space.names if name[:3] in MATRICES}

    def config(self) -> dict[str, Any]:
        """The sizes in addition."""
        return super().config() | {"vocabulary": self.vocabulary, "length": self.length, "d_model": self.d_model}

    def own_figures(
        self, directions: Float[Tensor, "R P"], d2D: Callable[[Tensor], Float[Tensor, "R samples ..."]]
    ) -> dict[str, Float[Tensor, " R"]]:
        """``leading_head`` and ``in_one_head``."""
        share = self.head_shares(directions).amax(1)
        return {"leading_head": share, "in_one_head": (share > 0.8).double()}

    def head_shares(self, directions: Float[Tensor, "R P"]) -> Float[Tensor, "R heads"]:
        """How much of each direction's squared norm lies in each head, layer by layer."""
        heads = torch.zeros(len(directions), LAYERS, HEADS, dtype=torch.float64)
        sizes = self.space.sizes
        for name, part in zip(self.space.names, directions.double().cpu().split(sizes, 1), strict=True):
            if name not in self.heads():
                continue
            matrix = part.view(len(directions), *self.space.shape_of[name])
            by_rows = matrix.mT if "_O" in name else matrix
            heads[:, int(name[-1])] += by_rows.reshape(len(directions), HEADS, -1).square().sum(2)
        return heads.flatten(1) / directions.double().cpu().square().sum(1, keepdim=True)

    def _drawn(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Int[Tensor, " rows"]]:
        period = torch.randint(SHORTEST, self.length // 3 + 1, (rows,), generator=generator)
        tokens = torch.randint(self.vocabulary, (rows, self.length), generator=generator)
        place = torch.arange(self.length) % period[:, None]
        return tokens.gather(1, place), period
