"""Modular addition by a one-layer transformer that has grokked: features are frequencies, dense over all samples.

Source: Nanda et al., "Progress measures for grokking via mechanistic interpretability", 2023.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from eigen_lightning.run.errors import UserError
from eigen_lightning.run.seeding import derive_seed
from eigen_lightning.run.waiting import Waiting
from eigen_lightning.targets.toys.regression import check_sizes
from eigen_lightning.targets.toys.toy import ToyTarget

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1.0
TRAIN_SHARE = 0.5
CHECKED_EVERY = 100
HARMONICS = 2
"""d2D is quadratic in the tangents: a response in a frequency has twice that frequency too."""


class ModularNetwork(nn.Module):
    """Embedding, an attention layer of four heads, a ReLU MLP, unembedding; no normalization; logits of the last token.

    Attributes:
        W_E: ``[modulus + 1, d]``, the last row for "=".
        W_pos: ``[3, d]``.
        W_Q, W_K, W_V: ``[d, d]``, rows by head.
        W_O: ``[d, d]``, columns by head.
        W_in, b_in: ``[4 d, d]``, ``[4 d]``.
        W_out: ``[d, 4 d]``.
        W_U: ``[modulus, d]``.
    """

    heads = 4
    W_E: Tensor
    W_pos: Tensor
    W_Q: Tensor
    W_K: Tensor
    W_V: Tensor
    W_O: Tensor
    W_in: Tensor
    b_in: Tensor
    W_out: Tensor
    W_U: Tensor

    def __init__(self, modulus: int, d: int) -> None:
        super().__init__()
        self.modulus = modulus
        shapes = {
            "W_E": (modulus + 1, d), "W_pos": (3, d), "W_Q": (d, d), "W_K": (d, d), "W_V": (d, d), "W_O": (d, d),
            "W_in": (4 * d, d), "b_in": (4 * d,), "W_out": (d, 4 * d), "W_U": (modulus, d),
        }  # fmt: skip
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def forward(self, pairs: Int[Tensor, "batch 2"]) -> Float[Tensor, "batch modulus"]:
        """The logits of the sum."""
        equals = torch.full_like(pairs[:, :1], self.modulus)
        stream = self.W_E[torch.cat([pairs, equals], 1)] + self.W_pos
        shape = (*stream.shape[:2], self.heads, -1)
        query = (stream[:, -1:] @ self.W_Q.mT).view(len(pairs), 1, self.heads, -1)
        key, value = ((stream @ W.mT).view(shape) for W in (self.W_K, self.W_V))
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / key.shape[-1] ** 0.5
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value).flatten(2)[:, 0]
        last = stream[:, -1] + mixed @ self.W_O.mT
        last = last + relu(last @ self.W_in.mT + self.b_in) @ self.W_out.mT
        return last @ self.W_U.mT


class ModularTarget(ToyTarget):
    """``a + b mod p``, trained past grokking: until unseen pairs are answered as surely as seen ones.

    Its features are no directions, so that there is no truth to match: the figure ``frequency_share`` says how far a
    direction's response over all pairs lies in one frequency and its double.
    """

    n_inputs = 2
    static_graph = True

    def __init__(
        self,
        modulus: int = 53,
        d_model: int = 64,
        steps: int = 12000,
        accepted_loss: float = 0.01,
        parameters: Sequence[str] = ("W_in",),
    ) -> None:
        """
        Args:
            modulus: p.
            d_model: dimensions of the residual stream, a multiple of 4.
            steps: most steps of AdamW on half of all pairs.
            accepted_loss: cross entropy on the other half, in nats, at which training ends.
            parameters: names or patterns of the parameters to decompose.

        Raises:
            UserError: where a number is out of range.
        """
        super().__init__(parameters)
        check_sizes(modulus=modulus, d_model=d_model, steps=steps)
        if d_model % ModularNetwork.heads:
            raise UserError(f"expected a d_model that {ModularNetwork.heads} heads divide, got {d_model}; use 64, say")
        self.modulus = modulus
        self.d_model = d_model
        self.steps = steps
        self.accepted_loss = accepted_loss
        self.feature_names = []

    # There is no sample on which one frequency alone is present.
    feature_inputs = None  # type: ignore[assignment]

    def build(self) -> ModularNetwork:
        """The network, all zeros."""
        return ModularNetwork(self.modulus, self.d_model)

    def pairs(self) -> Int[Tensor, "pairs 2"]:
        """All pairs (a, b), b fastest."""
        every = torch.arange(self.modulus)
        return torch.cartesian_prod(every, every)

    def train(self, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train until the network has grokked.

        Raises:
            UserError: where it has not, with the loss on unseen pairs.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "modular addition"))
        network, pairs = self.build(), self.pairs()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * self.d_model**-0.5)
        answers = pairs.sum(1) % self.modulus
        order = torch.randperm(len(pairs), generator=generator)
        seen, unseen = order.tensor_split([int(TRAIN_SHARE * len(pairs))])
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98), fused=True
        )
        loss = float("inf")
        with Waiting("Training modular addition until it groks, at most", self.steps) as waiting:
            for step in range(1, self.steps + 1):
                optimizer.zero_grad()
                cross_entropy(network(pairs[seen]), answers[seen]).backward()
                optimizer.step()
                if step % CHECKED_EVERY == 0:
                    waiting.reach(step)
                    with torch.no_grad():
                        loss = float(cross_entropy(network(pairs[unseen]), answers[unseen]))
                    if loss < self.accepted_loss:
                        facts = {"seed": seed, "steps": step, "unseen_loss": loss}
                        return {name: part.detach().clone() for name, part in network.named_parameters()}, facts
        raise UserError(
            f"expected a network that groks, with a loss below {self.accepted_loss:g} on unseen pairs, got {loss:.3g} "
            f"after {self.steps} steps: raise steps, or take another seed"
        )

    def config(self) -> dict[str, Any]:
        """The sizes in addition."""
        return super().config() | {"modulus": self.modulus, "d_model": self.d_model}

    def own_figures(
        self,
        directions: Float[Tensor, "R P"],
        d2D: Callable[[Tensor], Float[Tensor, "R samples"]],
    ) -> dict[str, Float[Tensor, " R"]]:
        """``frequency_share``: see :func:`frequency_share`."""
        responses = d2D(self.pairs()).view(-1, self.modulus, self.modulus)
        return {"frequency_share": frequency_share(responses)}


def frequency_share(responses: Float[Tensor, "R p p"]) -> Float[Tensor, " R"]:
    """The largest share that one frequency and its double have in a response over (a, b), its mean taken out.

    Args:
        responses: d2D over all pairs; the Fourier components (i, j) with i and j out of 0, k, 2 k and their negatives
            count for frequency k.

    Returns:
        In [0, 1]; 0 where a response is the same for all pairs.
    """
    p = responses.shape[-1]
    power = torch.fft.fft2(responses.double()).abs().square()
    power[:, 0, 0] = 0.0
    total = power.sum((1, 2)).clamp_min(torch.finfo(power.dtype).tiny)
    shares = []
    for frequency in range(1, p // 2 + 1):
        multiples = torch.tensor(sorted({sign * m * frequency % p for m in range(HARMONICS + 1) for sign in (1, -1)}))
        shares.append(power[:, multiples][:, :, multiples].sum((1, 2)) / total)
    return torch.stack(shares).amax(0)
