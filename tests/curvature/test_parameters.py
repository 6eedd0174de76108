import pytest
import torch

from eigen_lightning.curvature.parameters import ParameterSpace
from eigen_lightning.run.errors import UserError, nearest

AVAILABLE = {
    "blocks.0.W_Q": torch.zeros(2, 3),
    "blocks.0.W_K": torch.zeros(2, 3),
    "blocks.1.W_Q": torch.zeros(4),
    "scale": torch.zeros(()),
}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*"], tuple(AVAILABLE)),
        (["scale"], ("scale",)),
        (["blocks.*.W_Q"], ("blocks.0.W_Q", "blocks.1.W_Q")),
        (["scale", "blocks.0.W_K"], ("blocks.0.W_K", "scale")),
        (["blocks.0.*", "*.W_Q"], ("blocks.0.W_Q", "blocks.0.W_K", "blocks.1.W_Q")),
    ],
)
def test_patterns_choose_in_the_networks_order(patterns, names):
    space = ParameterSpace.select(AVAILABLE, patterns)
    assert space.names == names
    assert space.shapes == tuple(tuple(AVAILABLE[name].shape) for name in names)
    assert space.size == sum(AVAILABLE[name].numel() for name in names)


def test_no_pattern_is_refused():
    with pytest.raises(UserError, match="at least one parameter name or pattern, got none"):
        ParameterSpace.select(AVAILABLE, [])


def test_a_pattern_that_matches_nothing_is_refused_with_what_is_near():
    with pytest.raises(UserError, match=r"'blocks\.0\.W_k', which matches nothing; did you mean .*blocks\.0\.W_K.*\?"):
        ParameterSpace.select(AVAILABLE, ["scale", "blocks.0.W_k"])


def test_a_pattern_near_nothing_is_refused_with_what_there_is():
    with pytest.raises(
        UserError, match=r"'zzz', which matches nothing; the network has blocks\.0\.W_Q, blocks\.0\.W_K"
    ):
        ParameterSpace.select(AVAILABLE, ["zzz"])


def test_flat_order_is_the_networks_and_row_major_within_a_parameter():
    space = ParameterSpace.select(AVAILABLE, ["blocks.0.W_Q", "scale", "blocks.1.W_Q"])
    tensors = {
        "scale": torch.tensor(10.0),
        "blocks.1.W_Q": torch.arange(6.0, 10.0),
        "blocks.0.W_Q": torch.arange(6.0).reshape(2, 3),
    }
    assert space.flatten(tensors).tolist() == list(range(11))


@pytest.mark.parametrize("rows", [(), (5,), (2, 3)])
def test_unflatten_undoes_flatten_with_any_rows_in_front(rows):
    space = ParameterSpace.select(AVAILABLE, ["*"])
    vector = torch.randn(*rows, 17)
    tensors = space.unflatten(vector)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        name: (*rows, *tensor.shape) for name, tensor in AVAILABLE.items()
    }
    assert torch.equal(space.flatten(tensors), vector)


def test_gradients_flow_through():
    space = ParameterSpace.select(AVAILABLE, ["blocks.1.W_Q", "scale"])
    vector = torch.randn(5, requires_grad=True)
    tensors = space.unflatten(vector)
    (tensors["scale"] * tensors["blocks.1.W_Q"][2]).backward()
    assert vector.grad.tolist() == [0, 0, vector[4].item(), 0, vector[2].item()]


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(RuntimeError, match="split"):
        ParameterSpace.select(AVAILABLE, ["*"]).unflatten(torch.zeros(16))


def test_nearest_suggests_only_what_is_close():
    assert nearest("scael", AVAILABLE) == "; did you mean scale?"
    assert nearest("blocks.1.W_K", AVAILABLE, count=1).count(",") == 0
    assert nearest("zzz", AVAILABLE) == ""
