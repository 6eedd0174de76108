"""Every activation of torch.nn and many layers, against a Jacobian by finite differences of the outputs alone.

Under MSE the Hessian at W0 is exactly 2/n J^T J, whatever the network.
"""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import activation

from eigen_lightning.curvature import MSE, Linearizer, TraceNormalization
from eigen_lightning.run.errors import UserError
from tests.networks import PLAIN, SmallNetwork, Squares, along, gradient_of_squares, unit_rows

WAYS: dict[str, dict[str, Any]] = {
    "written out": {"traces": TraceNormalization(exact_up_to=4096)},
    "plain": {"traces": PLAIN},
    "nested": {"method": "nested", "traces": PLAIN},
}


class Before(nn.Module):
    """A linear layer of chosen weights, then what is tested, then one number for each of its outputs."""

    def __init__(self, layer: Callable[..., Any], *shape: int) -> None:
        super().__init__()
        self.before = nn.Linear(2, torch.Size(shape).numel())
        self.layer, self.shape = layer, shape
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.layer(self.before(x).unflatten(-1, self.shape))
        while isinstance(outputs, tuple):
            outputs = outputs[0]
        return outputs.reshape(len(x), -1)


def numeric_hessian(network: SmallNetwork, inputs: Tensor) -> Tensor:
    """``2/n J^T J`` of each sample, J by central differences."""
    origin, step = network.origin, 1e-6
    with torch.no_grad():
        moves = step * torch.eye(len(origin), dtype=origin.dtype)
        J = torch.stack([(network.at(origin + e, inputs) - network.at(origin - e, inputs)) / (2 * step) for e in moves])
    return torch.einsum("psn,qsn->spq", J, J) * (2 / J.shape[-1])


def check(module: nn.Module, way: str, inputs: Tensor | None = None) -> None:
    network = SmallNetwork(module)
    inputs = torch.randn(3, 2, dtype=torch.float64) if inputs is None else inputs
    H, U = numeric_hessian(network, inputs), unit_rows(3, network.space.size)
    batch = Linearizer.prepare(network, MSE(), inputs, **WAYS[way])(inputs)
    assert batch.written_out == (way == "written out")
    value, gradient = batch.value_and_gradient(U, Squares())
    expected, slope = along(H, U), gradient_of_squares(H, U)
    assert expected.max() > 0
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7 * float(expected.max()))
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-6 * float(slope.abs().max()))


NO_DERIVATIVE = {("Hardsigmoid", "nested"), ("CrossMapLRN2d", "plain"), ("CrossMapLRN2d", "nested")}
"""What torch itself cannot differentiate often enough, in whatever mode: refused, never wrong."""

ARGUMENTS = {"Threshold": (0.1, 0.5), "Softmax": (-1,), "Softmin": (-1,), "LogSoftmax": (-1,)}
ACTIVATIONS = sorted(set(activation.__all__) - {"MultiheadAttention"})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str, way: str) -> None:
    layer = getattr(nn, name)(*ARGUMENTS.get(name, ()))
    # Far enough apart that some elements are on either side of every threshold.
    module = Before(layer, 4, 2, 1) if name == "Softmax2d" else Before(layer, 8)
    with torch.no_grad():
        module.before.weight.mul_(3)
        module.before.bias.copy_(torch.linspace(-4, 4, 8))
    checked_or_refused(name, module, way)


def checked_or_refused(name: str, module: nn.Module, way: str) -> None:
    if (name, way) not in NO_DERIVATIVE:
        check(module, way)
        return
    inputs = torch.randn(3, 2, dtype=torch.float64)
    with pytest.raises(UserError, match=r"a network that (torch\.func can differentiate|can be differentiated twice)"):
        Linearizer.prepare(SmallNetwork(module), MSE(), inputs, **WAYS[way])(inputs)


class Tokens(nn.Module):
    """Layers that take whole numbers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.double()

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.sin(self.layer(tokens)).flatten(1)


def attention(width: int = 4) -> Callable[[], Any]:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(width, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x, x, x, need_weights=False)[0]

    return Attention


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerDecoderLayer(4, 2, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x.flip(1))


class Pair(nn.Module):
    """A layer of two inputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:, 0], x[:, 1])


class Unpool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_unpool1d(*nn.functional.max_pool1d(x, 2, return_indices=True), 2)


class Function(nn.Module):
    """A function without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def with_statistics(norm: nn.Module) -> nn.Module:
    """Running statistics that are not zero and one."""
    nn.init.uniform_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(4, 3), (4,)),
    "Bilinear": (lambda: Pair(nn.Bilinear(3, 3, 2)), (2, 3)),
    "Identity": (nn.Identity, (4,)),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 2), (2, 4)),
    "Conv1d circular": (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (2, 4)),
    "Conv2d": (lambda: nn.Conv2d(2, 2, 2), (2, 3, 3)),
    "Conv2d grouped": (lambda: nn.Conv2d(2, 2, 2, groups=2, stride=2), (2, 4, 4)),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 2, 3, 2)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(2, 2, 2, stride=2), (2, 3)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 1, 2), (2, 2, 2)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(1, 1, 2), (1, 2, 2, 2)),
    "Unfold": (lambda: nn.Unfold(2), (1, 3, 3)),
    "Fold": (lambda: nn.Fold((3, 3), 2), (4, 4)),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), (2, 4)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (1, 4, 4)),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), (1, 2, 4, 2)),
    "MaxUnpool1d": (Unpool, (2, 4)),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), (2, 4)),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), (1, 4, 4)),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), (1, 2, 4, 2)),
    "LPPool1d": (lambda: nn.LPPool1d(2, 2), (2, 4)),
    "LPPool2d": (lambda: nn.LPPool2d(2, 2), (1, 4, 4)),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(2), (2, 5)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(2), (1, 3, 4)),
    "AdaptiveAvgPool3d": (lambda: nn.AdaptiveAvgPool3d(1), (1, 2, 2, 2)),
    "AdaptiveMaxPool1d": (lambda: nn.AdaptiveMaxPool1d(2), (2, 5)),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(2), (1, 3, 4)),
    "AdaptiveMaxPool3d": (lambda: nn.AdaptiveMaxPool3d(1), (1, 2, 2, 2)),
    "ReflectionPad1d": (lambda: nn.ReflectionPad1d(2), (2, 4)),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(1), (1, 3, 3)),
    "ReflectionPad3d": (lambda: nn.ReflectionPad3d(1), (1, 2, 2, 2)),
    "ReplicationPad1d": (lambda: nn.ReplicationPad1d(2), (2, 4)),
    "ReplicationPad2d": (lambda: nn.ReplicationPad2d(1), (1, 3, 3)),
    "ConstantPad1d": (lambda: nn.ConstantPad1d(1, 0.5), (2, 4)),
    "ZeroPad2d": (lambda: nn.ZeroPad2d(1), (1, 3, 3)),
    "CircularPad1d": (lambda: nn.CircularPad1d(1), (2, 4)),
    "BatchNorm1d": (lambda: with_statistics(nn.BatchNorm1d(4)), (4,)),
    "BatchNorm2d": (lambda: with_statistics(nn.BatchNorm2d(2)), (2, 2, 2)),
    "BatchNorm3d": (lambda: with_statistics(nn.BatchNorm3d(1)), (1, 2, 2, 2)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (4, 3)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(2, affine=True), (2, 4)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(2), (2, 2, 3)),
    "LayerNorm": (lambda: nn.LayerNorm(5), (5,)),
    "RMSNorm": (lambda: nn.RMSNorm(5), (5,)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(2, alpha=0.5), (4, 3)),
    "CrossMapLRN2d": (lambda: nn.CrossMapLRN2d(2, alpha=0.5), (3, 2, 2)),
    "normalize": (lambda: Function(lambda x: nn.functional.normalize(x, dim=-1)), (5,)),
    "RNN": (lambda: nn.RNN(2, 3, batch_first=True), (3, 2)),
    "RNN relu, both ways": (lambda: nn.RNN(2, 3, nonlinearity="relu", bidirectional=True, batch_first=True), (3, 2)),
    "LSTM": (lambda: nn.LSTM(2, 3, batch_first=True), (3, 2)),
    "LSTM of two layers": (lambda: nn.LSTM(2, 2, num_layers=2, batch_first=True), (2, 2)),
    "GRU": (lambda: nn.GRU(2, 3, batch_first=True), (3, 2)),
    "RNNCell": (lambda: nn.RNNCell(3, 4), (3,)),
    "LSTMCell": (lambda: nn.LSTMCell(3, 4), (3,)),
    "GRUCell": (lambda: nn.GRUCell(3, 4), (3,)),
    "MultiheadAttention": (attention(), (3, 4)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), (3, 4)),
    "TransformerEncoderLayer gelu": (
        lambda: nn.TransformerEncoderLayer(4, 2, 6, activation="gelu", norm_first=True, batch_first=True),
        (3, 4),
    ),
    "TransformerDecoderLayer": (Decoder, (3, 4)),
    "Dropout": (lambda: nn.Dropout(0.5), (4,)),
    "AlphaDropout": (lambda: nn.AlphaDropout(0.5), (4,)),
    "CosineSimilarity": (lambda: Pair(nn.CosineSimilarity()), (2, 4)),
    "PairwiseDistance": (lambda: Pair(nn.PairwiseDistance()), (2, 4)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (4, 2, 2)),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), (1, 4, 4)),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), (4, 2, 2)),
    "Upsample nearest": (lambda: nn.Upsample(scale_factor=2), (1, 2, 2)),
    "Upsample bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (1, 2, 2)),
    "sort": (lambda: Function(lambda x: x.sort(-1).values), (5,)),
    "top-k": (lambda: Function(lambda x: x.topk(2).values), (5,)),
    "cumulative sum": (lambda: Function(lambda x: x.cumsum(-1)), (5,)),
    "logsumexp": (lambda: Function(lambda x: x.logsumexp(-1, keepdim=True)), (5,)),
    "in place": (lambda: Function(lambda x: (x * 1).mul_(x).add_(1)), (5,)),
    "einsum": (lambda: Function(lambda x: torch.einsum("bij,bkj->bik", x, x)), (3, 4)),
    "fused attention": (lambda: Function(lambda x: nn.functional.scaled_dot_product_attention(x, x, x)), (1, 3, 4)),
    "complex": (lambda: Function(lambda x: torch.fft.rfft(x).abs()), (5,)),
    "masked": (lambda: Function(lambda x: torch.where(x > 0, x, -0.5 * x).sum(-1, keepdim=True)), (5,)),
}


@pytest.mark.parametrize("way", ["plain", "nested"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, way: str) -> None:
    make, shape = LAYERS[name]
    with warnings.catch_warnings():
        # Of torch's own code: some layers warn that they cannot be batched over directions.
        warnings.simplefilter("ignore")
        checked_or_refused(name, Before(make(), *shape), way)


@pytest.mark.parametrize("way", WAYS)
def test_embeddings(way: str) -> None:
    check(Tokens(nn.Embedding(7, 3)), way, torch.randint(7, (4, 3)))


def test_an_embedding_bag_is_refused_as_torch_has_no_derivative_of_its_derivative() -> None:
    with pytest.raises(UserError, match=r"can differentiate, got: .*_embedding_bag"):
        Linearizer.prepare(SmallNetwork(Tokens(nn.EmbeddingBag(7, 3))), MSE(), torch.randint(7, (4, 3)))


def test_a_slower_way_is_right_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    module = Before(nn.LSTM(2, 3, batch_first=True), 3, 2).float()
    network, inputs = SmallNetwork(module), torch.randn(3, 2)
    U = unit_rows(2, network.space.size)
    linearizer = Linearizer.prepare(network, MSE(), inputs, traces=PLAIN)
    for _ in range(3):
        got = linearizer(inputs).d2D(U)
    # oneDNN's LSTM has no forward-mode derivative; where torch is built without it, none is missed.
    messages = [record.getMessage() for record in caplog.records]
    assert (
        len([message for message in messages if "exact but slower" in message]) == torch.backends.mkldnn.is_available()
    )
    H = numeric_hessian(SmallNetwork(module.double()), inputs.double())
    torch.testing.assert_close(got.double(), along(H, U), rtol=1e-4, atol=1e-5 * float(got.max()))
