"""Networks of a person's own: d2D against Hessians written out in float64; what is refused, by name."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from eigen_lightning.curvature import Linearizer, divergence_named
from eigen_lightning.curvature.products import exact_kernels
from eigen_lightning.run.errors import UserError
from eigen_lightning.run.folder import RunFolder
from eigen_lightning.run.tensor_tree import TensorTree
from eigen_lightning.targets import Network
from eigen_lightning.targets.checks import check_curvature, check_samples
from tests.api.networks import Case, Recurrent, TwoInputs, UNetHead, cases, digits_cnn

NAMES = list(cases())


class FewSamples:
    """A set of samples as checks see it."""

    name, repeats = "train", True

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, epoch: int, indices: Tensor) -> Any:
        return type("Batch", (), {"inputs": self.inputs[indices]})


def loaded(case: Case) -> tuple[Network, Any]:
    target = Network(case.module, case.parameters, case.divergence, **case.options)
    target.load(RunFolder("nowhere"))
    return target, case.inputs if isinstance(case.inputs, Tensor) else TensorTree.of(case.inputs)


def hessians(target: Network, inputs: Any, divergence: str) -> Tensor:
    """By reverse mode over reverse mode, one sample and one row at a time, ``[*samples, P, P]``."""
    weights = target.space.flatten(target.weights).double()
    reference = target.outputs(target.weights, inputs).detach()
    of = divergence_named(divergence)

    def values(flat: Tensor) -> Tensor:
        return of.value(target.outputs(target.space.unflatten(flat), inputs), reference).flatten()

    leaf = weights.clone().requires_grad_()
    rows = []
    with exact_kernels():
        for value in values(leaf):
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
            rows.append(torch.stack([torch.autograd.grad(g, leaf, retain_graph=True)[0] for g in gradient]))
    return torch.stack(rows).unflatten(0, reference.shape[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_d2d_is_that_of_the_hessian_written_out(name: str) -> None:
    case = cases()[name]
    target, inputs = loaded(case)
    check_samples(target, FewSamples(inputs))
    linearizer = Linearizer.prepare(target, divergence_named(case.divergence), inputs)
    check_curvature(target, linearizer, inputs)
    directions = normalize(torch.randn(3, target.space.size, dtype=torch.float64), dim=-1)
    found = linearizer(inputs).d2D(directions)
    H = hessians(target, inputs, case.divergence)
    expected = torch.einsum("kp,...pq,kq->k...", directions, H, directions)
    assert found.shape == expected.shape
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10 * float(expected.abs().max()))


def test_the_module_given_stays_as_it_is() -> None:
    module = digits_cnn().train()
    target = Network(module, ["0.weight"])
    target.load(RunFolder("nowhere"))
    assert all(part.training for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not target.network.training
    with torch.no_grad():
        module[0].weight.zero_()
    assert target.weights["0.weight"].abs().min() > 0


def test_training_mode_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    Network(digits_cnn().train()).load(RunFolder("nowhere"))
    assert "1, 3 compute otherwise" in caplog.text
    caplog.clear()
    Network(digits_cnn().eval()).load(RunFolder("nowhere"))
    assert not caplog.text


def test_sample_dims_in_any_order_say_the_same() -> None:
    module, inputs = UNetHead(), torch.randn(2, 1, 4, 4)
    expected = module(inputs).permute(0, 2, 3, 1)
    for dims in ((0, 2, 3), (3, 0, 2), (0, -2, -1)):
        target = Network(module, sample_dims=dims)
        target.load(RunFolder("nowhere"))
        torch.testing.assert_close(target.outputs(target.weights, inputs), expected)


def outputs_of(module: nn.Module, inputs: Any, **options: Any) -> Tensor:
    target = Network(module, **options)
    target.load(RunFolder("nowhere"))
    return target.outputs(target.weights, inputs)


BOTH = TensorTree.of({"numbers": torch.randn(3, 3), "kinds": torch.tensor([0, 3, 1])})


@pytest.mark.parametrize(
    ("module", "inputs", "options", "message"),
    [
        (UNetHead(), torch.randn(2, 1, 4, 4), {}, r"expected `sample_dims` .*\[2, 3, 4, 4\].*\(0, 2, 3\)"),
        (UNetHead(), torch.randn(2, 1, 4, 4), {"sample_dims": (1, 2)}, "first dimension"),
        (UNetHead(), torch.randn(2, 1, 4, 4), {"sample_dims": (0, 4)}, r"got \(0, 4\)"),
        (TwoInputs(), BOTH, {}, "'hidden', 'score', got none"),
        (TwoInputs(), BOTH, {"select": "scores"}, "got 'scores'; did you mean score"),
        (nn.LSTM(2, 3, batch_first=True), torch.randn(3, 4, 2), {}, "2 outputs, from 0, got none"),
        (nn.Flatten(0), torch.randn(3, 4), {}, "3 samples, got shape"),
        (nn.Identity(), torch.randint(5, (3, 4)), {}, "real numbers"),
    ],
)
def test_outputs_that_could_mean_several_things_are_refused(
    module: nn.Module, inputs: Any, options: dict[str, Any], message: str
) -> None:
    if not list(module.parameters()):
        module.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match=message):
        outputs_of(module, inputs, **options)


class MeanOverBatch(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Random(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.rand_like(x))


BATCH_NORM = nn.BatchNorm1d(3, track_running_stats=False)
SERIES_FIRST = Recurrent(nn.LSTM)
SERIES_FIRST.cell.batch_first = False


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (
            nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)),
            torch.randn(4, 3),
            "'1' without",
        ),
        (MeanOverBatch(3, 3), torch.randn(4, 3), "mean or maximum over the batch"),
        (SERIES_FIRST, torch.randn(4, 4, 2), "LSTM 'cell' has batch_first=False"),
        (Random(3, 3), torch.randn(4, 3), "same outputs twice"),
    ],
)
def test_samples_that_depend_on_more_than_themselves_are_refused(
    module: nn.Module, inputs: Tensor, message: str
) -> None:
    target = Network(copy.deepcopy(module))
    target.load(RunFolder("nowhere"))
    with pytest.raises(UserError, match=message):
        check_samples(target, FewSamples(inputs))


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        return self.second(hidden + hidden.detach())


class StraightThrough(Detached):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(hidden + (hidden.round() - hidden).detach())


class Data(Detached):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))) + x @ self.first.weight.data.T


@pytest.mark.parametrize("module", [Detached(), StraightThrough(), Data()])
def test_derivatives_cut_inside_a_network_are_refused(module: nn.Module) -> None:
    target = Network(module)
    target.load(RunFolder("nowhere"))
    inputs = torch.randn(8, 3)
    linearizer = Linearizer.prepare(target, divergence_named("mse"), inputs)
    with pytest.raises(UserError, match=r"d2D .* against .*check=False"):
        check_curvature(target, linearizer, inputs)


class Renormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4, max_norm=1.0), nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(tokens)).mean(1))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient * ctx.saved_tensors[0]


class OwnFunction(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Square.apply(super().forward(x))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("module", "inputs"),
    [(Renormed(), torch.randint(5, (8, 3))), (OwnFunction(3, 2), torch.randn(8, 3))],
)
def test_parts_without_a_derivative_are_refused_in_one_line(module: nn.Module, inputs: Tensor) -> None:
    target = Network(module)
    target.load(RunFolder("nowhere"))
    with pytest.raises(UserError, match=r"torch\.func can differentiate.*choose parameters behind it"):
        Linearizer.prepare(target, divergence_named("mse"), inputs)


def test_modules_that_functional_calls_cannot_take() -> None:
    with pytest.raises(UserError, match="ScriptModule"):
        Network(torch.jit.script(nn.Linear(2, 2)))
    with pytest.raises(UserError, match="got str"):
        Network("model")  # type: ignore[arg-type]
    inner = nn.Linear(2, 2)
    assert Network(nn.DataParallel(inner)).module is inner


def test_a_tree_of_tensors_is_indexed_moved_and_joined_as_one() -> None:
    tree = TensorTree.of({"a": torch.arange(6.0).view(3, 2), "b": torch.tensor([1, 2, 3])})
    assert len(tree) == 3
    assert tree.numel() == 9
    both = torch.cat([tree[:1], tree[torch.tensor([2, 1])]])
    assert both.value["a"].tolist() == [[0, 1], [4, 5], [2, 3]]  # type: ignore[call-overload,index]
    assert both.value["b"].tolist() == [1, 3, 2]  # type: ignore[call-overload,index]
    assert [part.dtype for part in tree.to(torch.float64).parts] == [torch.float64, torch.int64]
