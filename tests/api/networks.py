"""Networks as people bring them, each small enough for its Hessian to be written out."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, one_hot, relu


class ResidualMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(relu(self.up(x)))


class UNetHead(nn.Module):
    """Down, up again, a skip connection and a class for each pixel, ``[B, classes, H, W]``."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(2, 2, 2, stride=2)
        self.head = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([x, self.up(torch.tanh(self.down(x)))], 1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell = kind(2, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0])


class Encoder(nn.Module):
    """A library's attention with a boolean padding mask; its output is a mean over what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.attention(x, x, x, key_padding_mask=~mask, need_weights=False)[0]
        return self.head((x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))


class AttentionOnly(nn.Module):
    """Causal attention written out, a sample each position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.query, self.key, self.value = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.unembed = nn.Linear(4, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        score = self.query(x) @ self.key(x).mT / 2
        hidden = torch.ones_like(score, dtype=torch.bool).triu(1)
        return self.unembed(x + score.masked_fill(hidden, -torch.inf).softmax(-1) @ self.value(x))


class Experts(nn.Module):
    """Each sample goes to one of two experts, picked out by boolean masks."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 2)
        self.experts = nn.ModuleList(nn.Linear(3, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).softmax(-1).max(-1)
        out = x.new_zeros(len(x), 2)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            out[mine] = weight[mine, None] * gelu(expert(x[mine]))
        return out


class OneHotExperts(Experts):
    """The same without masks."""

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).softmax(-1).max(-1)
        each = torch.stack([gelu(expert(x)) for expert in self.experts], 1)
        return (each * one_hot(chosen, 2).unsqueeze(-1)).sum(1) * weight.unsqueeze(-1)


class TiedAutoencoder(nn.Module):
    """The decoder's weight is the encoder's parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(2, 4, bias=False)
        self.decode = nn.Linear(4, 2, bias=False)
        self.encode.weight = nn.Parameter(torch.randn(4, 2) / 2)
        self.decode = nn.Linear(2, 4)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(torch.tanh(x @ self.encode.weight))


class TwoInputs(nn.Module):
    """Keyword arguments, several outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.kinds = nn.Linear(3, 2), nn.Embedding(4, 2)

    def forward(self, numbers: Tensor, kinds: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.numbers(numbers) + self.kinds(kinds))
        return {"hidden": hidden, "score": hidden.prod(-1)}


class WholeDict(TwoInputs):
    """The same, of a dict as one argument."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        return super().forward(batch["numbers"], batch["kinds"])


def digits_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(18, 4),
    )


def weight_normed(old: bool = False) -> nn.Module:
    normed = torch.nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
    return nn.Sequential(normed(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 2))


@dataclass
class Case:
    """A network, its inputs and how it is read."""

    module: nn.Module
    inputs: Any
    parameters: tuple[str, ...] = ("*",)
    divergence: str = "mse"
    options: dict[str, Any] = field(default_factory=dict)


def cases() -> dict[str, Case]:
    """Twelve networks and more, in float64, with three samples each."""
    tokens = torch.randint(5, (3, 4))
    mask = torch.arange(4) < torch.tensor([4, 2, 3])[:, None]
    x = torch.randn(3, 3, dtype=torch.float64)
    both = {"numbers": x, "kinds": torch.tensor([0, 3, 1])}
    series = torch.randn(3, 4, 2, dtype=torch.float64)
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    small = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    made = {
        "digits cnn": Case(digits_cnn(), images, ("0.*", "1.*"), "kl"),
        "mlp regressor": Case(nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1), nn.Flatten(0)), x),
        "residual mlp": Case(ResidualMLP(), torch.randn(3, 4, dtype=torch.float64)),
        "u-net head": Case(UNetHead(), small, ("up.*", "head.*"), "kl", {"sample_dims": (0, 2, 3)}),
        "lstm": Case(Recurrent(nn.LSTM), series, ("cell.weight_hh*",)),
        "gru": Case(Recurrent(nn.GRU), series, ("cell.weight_ih*",)),
        "attention only": Case(AttentionOnly(), tokens, ("query.*", "key.*"), "kl"),
        "padding mask": Case(Encoder(), (tokens, mask), ("attention.in_proj_weight",), "kl"),
        "experts by masks": Case(Experts(), x),
        "experts": Case(OneHotExperts(), x),
        "tied autoencoder": Case(TiedAutoencoder(), torch.randn(3, 4, dtype=torch.float64)),
        "dict inputs": Case(TwoInputs(), both, options={"select": "score"}),
        "dict as one": Case(WholeDict(), both, options={"select": lambda outputs: outputs["hidden"]}),
        "weight norm": Case(weight_normed(), x, divergence="kl"),
        "old weight norm": Case(weight_normed(old=True), x, divergence="kl"),
        "spectral norm": Case(nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), nn.Tanh()), x),
    }
    for case in made.values():
        case.module.double().eval()
    return made
