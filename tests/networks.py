"""Small networks that tests decompose, in float64 unless asked otherwise."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.attention import SDPBackend, sdpa_kernel

from eigen_lightning.curvature import Divergence, LinearizedBatch, Linearizer, Readout, TraceNormalization
from eigen_lightning.curvature.parameters import ParameterSpace

PLAIN = TraceNormalization(exact_up_to=0, probes=1)
"""With it no batch is written out, however small."""


class SmallNetwork:
    """A module seen as :class:`eigen_lightning.curvature.Network`."""

    readout: Readout | None = None
    static_graph = False

    def __init__(self, module: nn.Module, patterns: tuple[str, ...] = ("*",)) -> None:
        self.module = module.eval().requires_grad_(False)
        self.space = ParameterSpace.select(dict(module.named_parameters()), patterns)

    @property
    def weights(self) -> dict[str, Tensor]:
        named = dict(self.module.named_parameters())
        return {name: named[name] for name in self.space.names}

    def outputs(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(self.module, dict(weights), (inputs,))

    def hidden(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        named = {name.removeprefix("body."): tensor for name, tensor in weights.items()}
        return functional_call(self.module.body, named, (inputs,))

    def at(self, vector: Tensor, inputs: Tensor) -> Tensor:
        """Outputs with the chosen parameters set to a flat vector."""
        return self.outputs(self.space.unflatten(vector), inputs)

    @property
    def origin(self) -> Tensor:
        return self.space.flatten(self.weights)


class XOR(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 2, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x @ self.weight.T + self.bias).sum(-1, keepdim=True)


class TMS(nn.Module):
    def __init__(self, features: int = 5, hidden: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(hidden, features, dtype=torch.float64))
        self.bias = nn.Parameter(0.1 * torch.randn(features, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.weight.T @ self.weight + self.bias)


class CausalBody(nn.Module):
    """Embedding, one pre-norm block of causal attention and an MLP, a final norm."""

    def __init__(self, vocabulary: int, width: int, heads: int, positions: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(positions, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[-1]
        x = self.embed(tokens) + self.place(torch.arange(length, device=tokens.device))
        normed = self.norm1(x)
        query, key, value = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for layer in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(-2, -3).flatten(-2))
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return self.norm3(x)


class SmallTransformer(nn.Module):
    def __init__(self, vocabulary: int = 50, width: int = 8, heads: int = 2, positions: int = 12) -> None:
        super().__init__()
        self.body = CausalBody(vocabulary, width, heads, positions)
        self.unembed = nn.Linear(width, vocabulary)
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.unembed(self.body(tokens))


def transformer_network(*patterns: str) -> SmallNetwork:
    """A small transformer with its readout named, W_K chosen unless patterns say otherwise."""
    module = SmallTransformer()
    network = SmallNetwork(module, patterns or ("body.key.weight",))
    network.readout = Readout(module.unembed.weight, module.unembed.bias)
    return network


def unit_rows(rows: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return nn.functional.normalize(torch.randn(rows, width, dtype=dtype), dim=-1)


def linearized(network: Any, divergence: Divergence, inputs: Tensor, **options: Any) -> LinearizedBatch:
    """A batch by a linearizer prepared on it."""
    return Linearizer.prepare(network, divergence, inputs, **options)(inputs)


def dense_hessian(network: SmallNetwork, divergence: Divergence, inputs: Tensor) -> Tensor:
    """``[*samples, P, P]`` by forward over reverse mode of the divergence itself."""
    with sdpa_kernel(SDPBackend.MATH):
        reference = network.at(network.origin, inputs)
        return hessian(lambda w: divergence.value(network.at(w, inputs), reference))(network.origin)


def along(H: Tensor, U: Tensor) -> Tensor:
    """``u^T H u`` of each direction, ``[K, *samples]``."""
    return torch.einsum("kp,...pq,kq->k...", U, H, U)


class Squares:
    """``sum of d^2``, an objective whose gradient is easily written down."""

    rowwise = True

    def cotangent(self, d: Tensor, rows: slice) -> Tensor:
        return 2 * d


def gradient_of_squares(H: Tensor, U: Tensor) -> Tensor:
    """The gradient of :class:`Squares` by the directions."""
    return torch.einsum("k...,...pq,kq->kp", 4 * along(H, U), H, U)
