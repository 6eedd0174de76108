"""d2D by independent routes: one product, two, finite differences, the dense Hessian, and invariances."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from eigen_lightning.curvature import KL, MSE, CrossEntropy, Divergence, Linearizer, Readout, TraceNormalization
from eigen_lightning.directions import Interference, Steepness
from eigen_lightning.run.errors import UserError
from tests.networks import (
    PLAIN,
    TMS,
    XOR,
    SmallNetwork,
    Squares,
    along,
    dense_hessian,
    gradient_of_squares,
    linearized,
    transformer_network,
    unit_rows,
)

System = tuple[SmallNetwork, Divergence, Tensor]


def xor() -> System:
    return SmallNetwork(XOR()), MSE(), torch.rand(7, 2, dtype=torch.float64)


def tms() -> System:
    return SmallNetwork(TMS()), MSE(), torch.rand(7, 5, dtype=torch.float64)


def tms_kl() -> System:
    return SmallNetwork(TMS()), KL(), torch.rand(7, 5, dtype=torch.float64)


def transformer_kl() -> System:
    return transformer_network(), KL(), torch.randint(50, (3, 6))


def transformer_few() -> System:
    """So few parameters that the dense Hessian is cheap."""
    return transformer_network("body.norm1.*"), KL(), torch.randint(50, (3, 6))


def transformer_cross_entropy() -> System:
    return transformer_network("body.*"), CrossEntropy(), torch.randint(50, (3, 6))


def transformer_mse() -> System:
    return transformer_network("*.weight"), MSE(), torch.randint(50, (3, 6))


SYSTEMS = [xor, tms, tms_kl, transformer_kl, transformer_cross_entropy, transformer_mse]

WAYS = {
    "default": {},
    "through the outputs": {"readout": False},
    "plain": {"traces": PLAIN},
    "plain through the outputs": {"traces": PLAIN, "readout": False},
    "traced": {"traces": PLAIN, "static": True},
    "traced through the outputs": {"traces": PLAIN, "readout": False, "static": True},
}


def by(way: str, system: System) -> tuple[SmallNetwork, Linearizer, Tensor]:
    network, divergence, inputs = system
    options = dict(WAYS[way])
    network.static_graph = options.pop("static", False)
    if "unembed.weight" in network.space.names:
        network.readout = None
    return network, Linearizer.prepare(network, divergence, inputs, n_directions=3, **options), inputs


@pytest.mark.parametrize(
    ("way", "system"),
    # To trace a network with many chosen parameters takes seconds and tests nothing more.
    [
        (way, system)
        for way in WAYS
        for system in SYSTEMS
        if "traced" not in way or system not in (tms, transformer_cross_entropy, transformer_mse)
    ],
)
def test_one_product_equals_two_nested_ones_in_value_and_gradient(system, way: str) -> None:
    network, linearizer, inputs = by(way, system())
    U = unit_rows(4, network.space.size)
    one = linearizer(inputs)
    two = linearized(network, linearizer.divergence, inputs, method="nested")
    assert one.d2D(U).shape == (4, *inputs.shape[:1], *network.outputs(network.weights, inputs).shape[1:-1])
    assert one.d2D(U).min() >= 0
    (value, gradient), (expected, slope) = (each.value_and_gradient(U, Squares()) for each in (one, two))
    torch.testing.assert_close(one.d2D(U), value)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10 * float(expected.max()))
    torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-10 * float(slope.abs().max()))


@pytest.mark.parametrize(
    ("way", "system"),
    [
        (way, system)
        for way in [*WAYS, "nested"]
        for system in (xor, tms, tms_kl, transformer_few)
        if system is not transformer_few or way not in ("traced", "traced through the outputs", "nested")
    ],
)
def test_dense_hessian_in_value_gradient_trace_and_cross_terms(system, way: str) -> None:
    network, divergence, inputs = system()
    if way == "nested":
        batch = linearized(network, divergence, inputs, method="nested")
    else:
        network, linearizer, inputs = by(way, (network, divergence, inputs))
        batch = linearizer(inputs)
    U, H = unit_rows(5, network.space.size), dense_hessian(network, divergence, inputs)
    value, gradient = batch.value_and_gradient(U, Squares())
    largest = float(along(H, U).max())
    torch.testing.assert_close(value, along(H, U), rtol=1e-9, atol=1e-12 * largest)
    torch.testing.assert_close(gradient, gradient_of_squares(H, U), rtol=1e-9, atol=1e-10 * float(gradient.abs().max()))
    torch.testing.assert_close(
        batch.cross(U), torch.einsum("kp,...pq,lq->kl...", U, H, U), rtol=1e-9, atol=1e-10 * largest
    )
    torch.testing.assert_close(batch.cross(U).diagonal(dim1=0, dim2=1).movedim(-1, 0), batch.d2D(U), atol=1e-12, rtol=0)
    if len(batch.probes) == network.space.size:
        trace = H.diagonal(dim1=-2, dim2=-1).sum(-1)
        torch.testing.assert_close(batch.trace, trace, rtol=1e-9, atol=1e-12 * float(trace.max()))


@pytest.mark.parametrize("system", SYSTEMS)
def test_finite_differences(system) -> None:
    network, divergence, inputs = system()
    U, step = unit_rows(3, network.space.size), 1e-3
    reference = network.at(network.origin, inputs)
    exact = linearized(network, divergence, inputs, method="nested").d2D(U)
    for u, wanted in zip(U, exact, strict=True):
        moved = [divergence.value(network.at(network.origin + s * u, inputs), reference) for s in (step, -step)]
        torch.testing.assert_close(sum(moved) / step**2, wanted, rtol=1e-4, atol=1e-5 * float(wanted.max()))


def _mlp(width: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, outputs)).double()


@pytest.mark.parametrize("probes", [3, 6, 64])
def test_traces_are_exact_where_there_are_as_many_probes_as_parameters_and_unbiased_where_less(probes: int) -> None:
    """And d2D is what it is, however many probes there are."""
    network, divergence, inputs = xor()
    H, U = dense_hessian(network, divergence, inputs), unit_rows(4, 6)
    exact = H.diagonal(dim1=1, dim2=2).sum(-1)
    traces = TraceNormalization(exact_up_to=0, probes=probes)
    linearizer = Linearizer.prepare(network, divergence, inputs, traces=traces)
    probes_of_seeds = [traces.probe_directions(6, inputs, seed) for seed in range(100)]
    batches = [replace(linearizer, probes=drawn)(inputs) for drawn in probes_of_seeds]
    for batch in batches[:3]:
        torch.testing.assert_close(batch.d2D(U), along(H, U))
    mean = torch.stack([batch.trace for batch in batches]).mean(0)
    torch.testing.assert_close(mean, exact, rtol=0.2 if probes < 6 else 1e-12, atol=0)


class _PerPosition(nn.Module):
    """Positions mix, samples do not."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.Linear(4, width, dtype=torch.float64)
        self.down = nn.Linear(width, outputs, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x + x.cumsum(1))))


@pytest.mark.parametrize("divergence", [MSE(), KL()], ids=["diagonal", "full"])
@pytest.mark.parametrize(
    ("module", "inputs", "written_out"),
    [
        (_mlp(60, 3), torch.randn(7, 4, dtype=torch.float64), True),
        (_mlp(60, 20), torch.randn(7, 4, dtype=torch.float64), False),
        (_PerPosition(60, 3), torch.randn(3, 5, 4, dtype=torch.float64), True),
        (_PerPosition(60, 15), torch.randn(3, 5, 4, dtype=torch.float64), False),
    ],
    ids=["few outputs", "many outputs", "few a position", "many a position"],
)
def test_traces_are_exact_by_rows_however_many_parameters_there_are(
    module: nn.Module, inputs: Tensor, written_out: bool, divergence: Divergence
) -> None:
    """More parameters than an exact trace by forward mode may have; the sum of d2D along each of them is the trace."""
    network = SmallNetwork(module)
    size = len(network.origin)
    assert size > TraceNormalization().exact_up_to
    linearizer = Linearizer.prepare(network, divergence, inputs)
    batch = linearizer(inputs)
    assert len(linearizer.probes) == 0
    assert batch.written_out == written_out
    identity = torch.eye(size, dtype=torch.float64)
    expected = linearized(network, divergence, inputs, traces=PLAIN).d2D(identity).sum(0)
    torch.testing.assert_close(batch.trace, expected)
    torch.testing.assert_close(batch.d2D(identity).sum(0), expected)


def test_traces_are_estimated_where_rows_and_columns_are_many() -> None:
    network, inputs = SmallNetwork(_mlp(60, 200)), torch.randn(7, 4, dtype=torch.float64)
    linearizer = Linearizer.prepare(network, MSE(), inputs)
    assert linearizer.probes.shape == (64, len(network.origin))
    assert linearizer.has_costly_parts


def test_a_written_out_batch_is_held_and_others_are_not() -> None:
    network, divergence, inputs = tms()
    assert linearized(network, divergence, inputs).written_out
    assert not linearized(network, divergence, inputs, traces=PLAIN).written_out


def test_outputs_that_no_parameter_moves_are_left_out_of_a_written_out_batch() -> None:
    class HalfDead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x @ self.weight.T) * torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)

    network, inputs = SmallNetwork(HalfDead()), torch.randn(6, 3, dtype=torch.float64)
    inputs[2] = 0
    batch = linearized(network, MSE(), inputs)
    H, U = dense_hessian(network, MSE(), inputs), unit_rows(3, 12)
    torch.testing.assert_close(batch.d2D(U), along(H, U))
    torch.testing.assert_close(batch.trace, H.diagonal(dim1=1, dim2=2).sum(-1))
    assert batch.push(U).shape[1] < 24


class _ValueDecides(nn.Module):
    """Cannot be batched over samples: a value decides what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        x = x if float(x.abs().max()) > 1e-12 else x + 1
        return torch.tanh(x @ self.weight.T)


@pytest.mark.parametrize(("module", "alone"), [(TMS, True), (_ValueDecides, False)])
@pytest.mark.parametrize("divergence", [MSE(), KL()], ids=["diagonal", "full"])
def test_the_jacobian_is_the_same_by_reverse_and_by_forward_mode(
    module: type[nn.Module], alone: bool, divergence: Divergence
) -> None:
    network = SmallNetwork(module())
    inputs = torch.rand(6, 5 if module is TMS else 3, dtype=torch.float64)
    linearizer = Linearizer.prepare(network, divergence, inputs)
    assert linearizer.samples_alone == alone
    batch, forward = linearizer(inputs), replace(linearizer, samples_alone=False)(inputs)
    assert batch.written_out
    assert forward.written_out
    identity = torch.eye(len(linearizer.origin), dtype=torch.float64)
    torch.testing.assert_close(batch.push(identity), forward.push(identity), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(batch.trace, forward.trace, rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------------------------------------ invariances


def test_sign_of_a_direction_does_not_matter() -> None:
    network, divergence, inputs = tms()
    U, batch = unit_rows(3, network.space.size), linearized(network, divergence, inputs)
    assert torch.equal(batch.d2D(U), batch.d2D(-U))


@pytest.mark.parametrize("name", ["body.key.weight", "body.query.weight"])
def test_the_first_position_of_a_causal_transformer_has_no_curvature_in_keys_and_queries(name: str) -> None:
    network = transformer_network(name)
    values = linearized(network, KL(), torch.randint(50, (3, 6))).d2D(unit_rows(4, network.space.size))
    assert values[..., 0].abs().max() == 0
    assert values[..., 1:].max() > 0


def test_one_vector_added_to_every_key_changes_nothing() -> None:
    network = transformer_network("body.key.bias")
    values = linearized(network, KL(), torch.randint(50, (3, 6))).d2D(unit_rows(4, network.space.size))
    assert values.abs().max() < 1e-25


def test_a_linear_network_has_the_same_curvature_everywhere() -> None:
    network = SmallNetwork(nn.Linear(3, 2, dtype=torch.float64), ("bias",))
    values = linearized(network, MSE(), torch.randn(5, 3, dtype=torch.float64)).d2D(unit_rows(2, 2))
    torch.testing.assert_close(values, torch.ones(2, 5, dtype=torch.float64))


# ------------------------------------------------------------------------------- shapes that depend on values


class Experts(nn.Module):
    """Each sample goes to one of four experts, chosen by its first feature."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 6, 3, dtype=torch.float64))
        self.down = nn.Parameter(torch.randn(4, 2, 6, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        outputs = x.new_zeros(len(x), 2)
        expert = (x[:, 0] * 4).long()
        for number in expert.unique().tolist():
            mask = expert == number
            hidden = nn.functional.gelu(x[mask] @ self.up[number].T)
            outputs = outputs.index_put((mask.nonzero().squeeze(1),), hidden @ self.down[number].T)
        return outputs


@pytest.mark.parametrize("traces", [PLAIN, TraceNormalization()], ids=["plain", "written out"])
def test_a_mixture_of_experts_is_right_on_batches_that_use_other_experts(traces: TraceNormalization) -> None:
    network = SmallNetwork(Experts())
    first, later = (torch.rand(8, 3, dtype=torch.float64) for _ in range(2))
    first[:, 0] *= 0.5
    linearizer = Linearizer.prepare(network, MSE(), first, traces=traces)
    U = unit_rows(3, network.space.size)
    for inputs in (first, later, first):
        H = dense_hessian(network, MSE(), inputs)
        value, gradient = linearizer(inputs).value_and_gradient(U, Squares())
        torch.testing.assert_close(value, along(H, U))
        torch.testing.assert_close(gradient, gradient_of_squares(H, U))


def test_an_expert_that_the_first_sample_does_not_use_is_no_unused_parameter() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Linear(3, 2, dtype=torch.float64) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            low = x[:, 0] < 0.5
            parts = [(mask, layer) for mask, layer in ((low, self.first), (~low, self.second)) if bool(mask.any())]
            outputs = x.new_zeros(len(x), 2)
            for mask, layer in parts:
                outputs = outputs.index_put((mask.nonzero().squeeze(1),), layer(x[mask]))
            return outputs

    network, inputs = SmallNetwork(Skipping()), torch.rand(6, 3, dtype=torch.float64)
    inputs[0, 0], inputs[1, 0] = 0.1, 0.9
    U = unit_rows(3, network.space.size)
    H = dense_hessian(network, MSE(), inputs)
    torch.testing.assert_close(linearized(network, MSE(), inputs).d2D(U), along(H, U))


def test_a_network_that_branches_on_values_is_right() -> None:
    class Branching(TMS):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if bool(x[0, 0] > 0.5) else super().forward(2 * x)

    network = SmallNetwork(Branching())
    inputs = torch.rand(4, 5, dtype=torch.float64)
    linearizer, U = Linearizer.prepare(network, MSE(), inputs, traces=PLAIN), unit_rows(2, network.space.size)
    for first in (0.9, 0.1):
        inputs[0, 0] = first
        torch.testing.assert_close(linearizer(inputs).d2D(U), along(dense_hessian(network, MSE(), inputs), U))


# ---------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("form", ["squared", "norm"])
def test_gradients_of_stage_2_keep_the_digits_of_float64(form) -> None:
    """Against autograd on the dense Hessian and the whole [samples, K, K] tensor; samples of no power of two."""
    network, divergence, inputs = tms()
    H, U = dense_hessian(network, divergence, inputs), unit_rows(4, 15).requires_grad_()
    d, unit = along(H, U), nn.functional.normalize(U, dim=-1)
    squared = torch.einsum("ks,ls,kl->skl", d, d, unit @ unit.T).tril(-1).square().sum()
    expected = squared / 7 if form == "squared" else squared.sqrt() / 35
    slope = torch.autograd.grad(expected, U)[0]
    loss = Interference(form, 7, 35)
    value, gradient = loss.value_and_gradient(
        linearized(network, divergence, inputs), U.detach(), None, lambda tensor: tensor
    )
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-12 * float(slope.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_of_half_precision_is_evaluated_in_float32(dtype: torch.dtype) -> None:
    network = transformer_network()
    U, inputs = unit_rows(3, network.space.size, torch.float32), torch.randint(50, (3, 6))
    exact = linearized(network, KL(), inputs).d2D(U)
    network.module.to(dtype)
    batch = linearized(network, KL(), inputs)
    value, gradient = batch.value_and_gradient(U, Steepness())
    assert {batch.outputs.dtype, batch.probes.dtype, batch.trace.dtype, value.dtype, gradient.dtype} == {torch.float32}
    assert torch.allclose(value.double(), exact, rtol=0.2, atol=0.05 * float(exact.max()))


# ---------------------------------------------------------------------------------------------- what is refused


def test_parameters_that_do_not_reach_the_outputs_are_refused_by_name() -> None:
    class Idle(TMS):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Parameter(torch.randn(3, dtype=torch.float64))

    inputs = torch.rand(4, 5, dtype=torch.float64)
    with pytest.raises(UserError, match="got idle, which the network does not use: leave them out of `parameters`"):
        Linearizer.prepare(SmallNetwork(Idle()), MSE(), inputs)
    with pytest.raises(UserError, match="got idle, which"):
        Linearizer.prepare(SmallNetwork(Idle(), ("idle",)), MSE(), inputs)
    Linearizer.prepare(SmallNetwork(Idle(), ("weight", "bias")), MSE(), inputs)


def test_a_network_that_cannot_be_differentiated_is_refused() -> None:
    class Rounded(TMS):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(super().forward(x).detach().numpy()) + 0 * self.weight.sum() + 0 * self.bias.sum()

    with pytest.raises(UserError, match=r"a network that torch\.func can differentiate"):
        Linearizer.prepare(SmallNetwork(Rounded()), MSE(), torch.rand(4, 5, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("share", [0.0, 1e-3, 1.0])
def test_a_divergence_with_a_slope_is_refused_at_any_scale_of_outputs(scale: float, share: float) -> None:
    class Tilted(MSE):
        """In units of the outputs' scale."""

        def value(self, outputs: Tensor, reference: Tensor) -> Tensor:
            return super().value(outputs, reference) + share * scale * (outputs - reference).mean(-1)

    class Louder(TMS):
        def forward(self, x: Tensor) -> Tensor:
            return scale * super().forward(x)

    network, inputs = SmallNetwork(Louder()), torch.rand(7, 5, dtype=torch.float64)
    U = unit_rows(2, network.space.size)
    if share:
        with pytest.raises(UserError, match=r"a divergence whose gradient vanishes.*Tilted.*use `curvature: nested`"):
            Linearizer.prepare(network, Tilted(), inputs)
    else:
        Linearizer.prepare(network, Tilted(), inputs)
    values = linearized(network, Tilted(), inputs, method="nested").d2D(U)
    torch.testing.assert_close(values, along(dense_hessian(network, Tilted(), inputs), U))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_readout_that_is_not_the_outputs_is_refused(dtype: torch.dtype) -> None:
    network, inputs = transformer_network(), torch.randint(50, (3, 6))
    network.module.to(dtype)
    module = network.module
    Linearizer.prepare(network, KL(), inputs)

    class Scaled(SmallNetwork):
        def outputs(self, weights, inputs):  # type: ignore[no-untyped-def]
            return 3 * super().outputs(weights, inputs)

    scaled = Scaled(module, ("body.key.weight",))
    scaled.readout = network.readout
    with pytest.raises(UserError, match="the target's readout applied to its hidden tensor to give its outputs"):
        Linearizer.prepare(scaled, KL(), inputs)
    Linearizer.prepare(scaled, KL(), inputs, readout=False)
    network.readout = Readout(torch.randn(7, 8, dtype=dtype))
    with pytest.raises(UserError, match=r"shape \[3, 6, 7\] against \[3, 6, 50\]"):
        Linearizer.prepare(network, KL(), inputs)
