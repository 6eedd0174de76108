"""Directions as factors: their geometry against dense rows, their products against dense products, their steps."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eigen_lightning.curvature import KL, MSE, Linearizer
from eigen_lightning.curvature.factored import FactoredSpace, Side
from eigen_lightning.curvature.factored_products import FactoredLinearizer
from eigen_lightning.curvature.parameters import ParameterSpace
from eigen_lightning.directions import Coverage, Steepness, polar
from eigen_lightning.directions.factored_ascent import free_step, repelled_step
from eigen_lightning.run.errors import UserError
from eigen_lightning.targets import Transformer
from tests.networks import PLAIN, TMS, SmallNetwork, transformer_network
from tests.targets.conftest import save_tiny_model

SPACE = ParameterSpace(("a", "b", "bias"), ((4, 6), (3, 2), (5,)))


def coordinates(rank: int, count: int = 3) -> tuple[FactoredSpace, Tensor]:
    space = FactoredSpace(SPACE, rank)
    return space, torch.randn(count, space.size, dtype=torch.float64)


# -------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("rank", [1, 2, 9])
def test_geometry_is_that_of_the_dense_rows(rank: int) -> None:
    space, rows = coordinates(rank)
    dense = space.dense(rows)
    assert space.size == sum(min(rank, *shape) * sum(shape) for shape in SPACE.shapes[:2]) + 5
    torch.testing.assert_close(space.inner(rows, rows[:2]), dense @ dense[:2].T)
    torch.testing.assert_close(space.norm(rows), dense.norm(dim=1))
    torch.testing.assert_close(space.cosines(rows), torch.corrcoef(dense) * 0 + cosine(dense))
    unit = nn.functional.normalize(dense, dim=1)
    for side in (0, 1):
        torch.testing.assert_close(space.dense(space.unit(rows, rows, side)), unit)  # type: ignore[arg-type]
        turned = space.orthonormal(rows, side)  # type: ignore[arg-type]
        torch.testing.assert_close(space.dense(turned), dense)
        factor = space.split(turned)["a"][side]
        torch.testing.assert_close(factor.mT @ factor, torch.eye(factor.shape[2]).double().expand(3, -1, -1))


def cosine(dense: Tensor) -> Tensor:
    unit = nn.functional.normalize(dense, dim=1)
    return unit @ unit.T


def test_from_dense_is_exact_at_full_rank_and_the_best_below() -> None:
    dense = torch.randn(3, SPACE.size, dtype=torch.float64)
    full = FactoredSpace(SPACE, 4)
    torch.testing.assert_close(full.dense(full.from_dense(dense)), dense)
    low = FactoredSpace(SPACE, 1)
    left = dense[:, :24].view(3, 4, 6) - low.dense(low.from_dense(dense))[:, :24].view(3, 4, 6)
    values = torch.linalg.svdvals(dense[:, :24].view(3, 4, 6))
    torch.testing.assert_close(left.flatten(1).norm(dim=1), values[:, 1:].norm(dim=1))


def test_random_rows_and_probes_are_of_unit_norm_and_probes_uncorrelated() -> None:
    space = FactoredSpace(ParameterSpace(("a", "b"), ((2, 3), (2,))), 1)
    torch.testing.assert_close(space.norm(space.random(5, 0, "rows")), torch.ones(5, dtype=torch.float64))
    probes = space.dense(space.probes(40000, 0))
    torch.testing.assert_close(probes.norm(dim=1), torch.ones(40000, dtype=torch.float64))
    second = probes.T @ probes / len(probes)
    assert (second - torch.eye(8) / 8).abs().max() < 4 / 8 / 40000**0.5


def test_what_cannot_be_held_as_factors_is_refused() -> None:
    with pytest.raises(UserError, match="filters of shape"):
        FactoredSpace(ParameterSpace(("filters",), ((2, 2, 3),)))
    with pytest.raises(UserError, match="rank of at least 1"):
        FactoredSpace(SPACE, 0)


# -------------------------------------------------------------------------------------------------------- products


class Perceptron(nn.Module):
    """Biases, and a right factor as GPT-2 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 4, dtype=torch.float64)
        self.second = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
        self.shift = nn.Parameter(torch.randn(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.shift, torch.tanh(self.first(x)), self.second)


class Tied(nn.Module):
    """One matrix as table, as linear layer, and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(7, 4, dtype=torch.float64))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = nn.functional.embedding(tokens, self.table)
        hidden = hidden + torch.tanh(hidden @ self.table.T) @ self.table
        return nn.functional.linear(hidden, self.table)


SYSTEMS = {
    "perceptron": lambda: (SmallNetwork(Perceptron()), MSE(), torch.randn(6, 5, dtype=torch.float64)),
    "superposition": lambda: (SmallNetwork(TMS()), MSE(), torch.rand(6, 5, dtype=torch.float64)),
    "tied": lambda: (SmallNetwork(Tied()), KL(), torch.randint(7, (3, 4))),
    "transformer": lambda: (
        transformer_network("body.*.weight", "body.up.bias", "body.norm1.*"), KL(), torch.randint(50, (3, 6))
    ),
}  # fmt: skip


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
@pytest.mark.parametrize("objective", [Steepness(2.0), Coverage(3.0)], ids=["steepness", "coverage"])
def test_value_and_gradient_are_those_of_the_dense_rows(system: object, rank: int, objective: object) -> None:
    network, divergence, inputs = system()  # type: ignore[operator]
    dense = Linearizer.prepare(network, divergence, inputs, traces=PLAIN)
    factored = FactoredLinearizer.prepare(dense, rank, inputs)
    space = factored.coordinates
    rows = torch.randn(4, space.size, dtype=torch.float64).requires_grad_()
    whole = space.dense(rows)
    d, gradient = dense(inputs).value_and_gradient(whole, objective)  # type: ignore[arg-type]
    got, by_factors = factored(inputs).value_and_gradient(rows, objective)  # type: ignore[arg-type]
    torch.testing.assert_close(got, d, rtol=1e-10, atol=1e-12)
    expected = torch.autograd.grad(whole, rows, gradient)[0]
    torch.testing.assert_close(by_factors, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(factored(inputs).d2D(rows), d, rtol=1e-10, atol=1e-12)


def test_the_trace_is_estimated_without_bias() -> None:
    network, divergence, inputs = SYSTEMS["perceptron"]()
    exact = Linearizer.prepare(network, divergence, inputs)(inputs).trace
    dense = Linearizer.prepare(network, divergence, inputs, traces=PLAIN)
    estimate = FactoredLinearizer.prepare(dense, 2, inputs, n_probes=20000)(inputs).trace
    torch.testing.assert_close(estimate, exact, rtol=0.06, atol=0)


def test_the_trace_is_that_of_dense_directions_where_those_fit() -> None:
    network, divergence, inputs = SYSTEMS["transformer"]()
    dense = Linearizer.prepare(network, divergence, inputs, traces=PLAIN, seed=1)
    factored = FactoredLinearizer.prepare(dense, 1, inputs, seed=2)
    torch.testing.assert_close(factored(inputs).trace, dense(inputs).trace)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "llama"])
def test_all_matrices_of_a_language_model(architecture: str, tmp_path: object) -> None:
    folder = save_tiny_model(tmp_path / "model", architecture)  # type: ignore[operator]
    target = Transformer(str(folder), ("blocks.*.attn.*", "blocks.*.mlp.*"), "float64")
    target.load(tmp_path)  # type: ignore[arg-type]
    inputs = torch.randint(61, (2, 5))
    dense = Linearizer.prepare(target, KL(), inputs, traces=PLAIN)
    factored = FactoredLinearizer.prepare(dense, 1, inputs)
    rows = factored.coordinates.random(3, 0, "rows")
    expected = dense(inputs).d2D(factored.coordinates.dense(rows))
    torch.testing.assert_close(factored(inputs).d2D(rows), expected, rtol=1e-9, atol=1e-12)


def test_a_matrix_used_in_another_way_is_refused_by_name() -> None:
    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(4, 4, dtype=torch.float64), nn.Linear(4, 3, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.tanh(x @ (self.inner.weight * 2)))

    inputs = torch.randn(6, 4, dtype=torch.float64)
    network = SmallNetwork(Squared(), ("inner.weight", "outer.*"))
    dense = Linearizer.prepare(network, MSE(), inputs, traces=PLAIN)
    with pytest.raises(UserError, match=r"expected inner.weight to be used by linear layers"):
        FactoredLinearizer.prepare(dense, 1, inputs)


def test_products_are_traced_where_the_graph_is_static_and_hold_for_batches_of_other_sizes() -> None:
    network, divergence, inputs = SYSTEMS["transformer"]()
    network.static_graph = True
    dense = Linearizer.prepare(network, divergence, inputs, traces=PLAIN, n_directions=4)
    factored = FactoredLinearizer.prepare(dense, 2, inputs)
    assert factored.traced is not None
    assert factored.traced.shape == inputs.shape
    space = factored.coordinates
    rows = torch.randn(7, space.size, dtype=torch.float64).requires_grad_()
    whole = space.dense(rows)
    for batch in (inputs.roll(1, 0), inputs[:2], torch.cat([inputs, inputs])):
        d, gradient = dense(batch).value_and_gradient(whole, Steepness(2.0))
        got, by_factors = factored(batch).value_and_gradient(rows, Steepness(2.0))
        torch.testing.assert_close(got, d, rtol=1e-10, atol=1e-12)
        expected = torch.autograd.grad(whole, rows, gradient, retain_graph=True)[0]
        torch.testing.assert_close(by_factors, expected, rtol=1e-9, atol=1e-11)


# -------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("rank", [1, 2, 9])
def test_mixed_rows_are_sums_of_dense_rows_projected_on_the_held_factor(rank: int, side: Side) -> None:
    space, rows = coordinates(rank, 4)
    rows, weights = space.orthonormal(rows, 1 - side), torch.randn(4, 4, dtype=torch.float64)  # type: ignore[arg-type]
    sums = space.space.unflatten(weights @ space.dense(rows))
    held = space.split(rows)
    for name, part in space.space.unflatten(space.dense(space.mixed(weights, rows, side))).items():
        expected = sums[name]
        if isinstance(held[name], tuple):
            basis = held[name][1 - side]
            on_basis = basis @ basis.mT
            expected = expected @ on_basis if side == 0 else on_basis @ expected
        torch.testing.assert_close(part, expected)


def test_rows_that_repel_end_at_more_features_than_free_ones() -> None:
    """Of equal starts, where one of five features is steeper than all others: a column of W each."""
    inputs = torch.eye(5, dtype=torch.float64) * torch.tensor([5.0, 1, 1, 1, 1], dtype=torch.float64)[:, None]
    network = SmallNetwork(nn.Linear(5, 2, bias=False, dtype=torch.float64), ("weight",))
    factored = FactoredLinearizer.prepare(Linearizer.prepare(network, MSE(), inputs, traces=PLAIN), 1, inputs)
    space, batch = factored.coordinates, factored(inputs)
    features = {}
    for step_of in (free_step, repelled_step):
        rows = space.random(8, 0, "start")
        for step in range(30):
            gradient = batch.value_and_gradient(rows, Steepness(3.0))[1]
            rows = step_of(space, rows, gradient, step % 2)  # type: ignore[arg-type]
        torch.testing.assert_close(space.norm(rows), torch.ones(8, dtype=torch.float64))
        features[step_of] = len(set(batch.d2D(rows).argmax(1).tolist()))
    assert features[free_step] <= 2
    assert features[repelled_step] >= 4


def test_a_row_without_a_gradient_stays_among_rows_that_repel() -> None:
    space, rows = coordinates(1, 3)
    rows = space.settled(rows, rows, 1)
    gradient = torch.randn_like(rows)
    gradient[1] = 0
    stepped = repelled_step(space, rows, gradient, 0)
    torch.testing.assert_close(space.dense(stepped[1:2]), space.dense(rows[1:2]))
    assert stepped.isfinite().all()


def test_steps_of_alternating_sides_never_lower_a_convex_objective_and_a_dead_row_stays() -> None:
    network, divergence, inputs = SYSTEMS["transformer"]()
    dense = Linearizer.prepare(network, divergence, inputs, traces=PLAIN)
    factored = FactoredLinearizer.prepare(dense, 1, inputs)
    space, batch = factored.coordinates, factored(inputs)
    rows = space.random(4, 0, "start")
    objective = Steepness(2.0)
    values = []
    for step in range(12):
        d, gradient = batch.value_and_gradient(rows, objective)
        values.append(float(objective.value(d)))
        gradient[3] = 0
        before = rows
        rows = free_step(space, rows, gradient, step % 2)  # type: ignore[arg-type]
        torch.testing.assert_close(space.norm(rows), torch.ones(4, dtype=torch.float64))
        torch.testing.assert_close(space.dense(rows[3:]), space.dense(before[3:]))
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in itertools.pairwise(values))
    assert values[-1] > 1.5 * values[0]


@pytest.mark.parametrize(
    ("step_of", "dense_step"), [(free_step, nn.functional.normalize), (repelled_step, polar)], ids=["free", "repelled"]
)
def test_at_full_rank_a_step_is_the_dense_step(step_of: Any, dense_step: Any) -> None:
    """With every column held, projecting the gradient on what the other factor spans changes nothing."""
    network, divergence, inputs = SmallNetwork(TMS(), ("weight",)), MSE(), torch.rand(6, 5, dtype=torch.float64)
    dense = Linearizer.prepare(network, divergence, inputs, traces=PLAIN)
    factored = FactoredLinearizer.prepare(dense, 2, inputs)
    space = factored.coordinates
    rows = space.orthonormal(space.random(3, 0, "start"), 0)
    gradient = factored(inputs).value_and_gradient(rows, Steepness(2.0))[1]
    of_dense = dense(inputs).value_and_gradient(space.dense(rows), Steepness(2.0))[1]
    torch.testing.assert_close(space.dense(step_of(space, rows, gradient, 1)), dense_step(of_dense))
