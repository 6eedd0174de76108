"""What the two stages reach, on a network whose features are known."""

from pathlib import Path

import pytest
import torch

from eigen_lightning.analysis.health import duplicates
from eigen_lightning.analysis.recovery import assign
from eigen_lightning.learning import PolarAscent, Starts, TraceNormalization
from tests.toy_runs import fit


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_outputs_times_a_thousand_give_the_same_directions(tmp_path: Path, power: float) -> None:
    settings = {"normalization": TraceNormalization(power=power), "samples": 1024}
    one, other = (fit(tmp_path, factor=factor, **settings).U.detach() for factor in (1.0, 1000.0))
    # The pentagon's symmetry leaves the order of the rows to rounding.
    assert assign(one, other)[1].min() > 1 - 1e-5


def test_outputs_times_a_thousand_mean_the_same_lambda_and_learning_rate(tmp_path: Path) -> None:
    settings = {
        "stage1": lambda params: torch.optim.Adam(params, lr=0.01),
        "stage2": None,
        "starts": Starts(steps=0),
        "interference_weight": 3.0,
    }
    one, other = (fit(tmp_path, factor=factor, **settings).U.detach() for factor in (1.0, 1000.0))
    assert assign(one, other)[1].min() > 1 - 1e-4


def test_the_start_is_the_steepest_of_several_and_comes_from_the_seed(tmp_path: Path) -> None:
    again = [fit(tmp_path, samples=256, starts=Starts(count=4, steps=10, samples=256)).U.detach() for _ in range(2)]
    assert torch.equal(*again)


def test_stage_2_keeps_groups_apart_where_there_are_more_directions_than_parameters(tmp_path: Path) -> None:
    """20 directions in 15 dimensions are two orthonormal groups; each alone goes for the same features."""
    settings = {"directions": 20, "stage2": None, "epochs": 4, "samples": 8192}
    without = fit(tmp_path, interference_weight=0.0, **settings).U.detach()
    module = fit(tmp_path, interference_weight=3.0, **settings)
    apart = module.U.detach()
    assert len(duplicates(without)) >= 4
    assert len(duplicates(apart)) == 0
    for group in apart.chunk(2):
        torch.testing.assert_close(group @ group.T, torch.eye(10), atol=1e-5, rtol=0)
    # And it does not lose what stage 1 found: some direction of each feature is still there.
    of_features = [module.curvature.at(inputs, 20)(apart).mean(1) for inputs in module.target.feature_inputs(10)]
    values = torch.stack(of_features, 1)
    shares = values / values.sum(1, keepdim=True)
    assert shares.amax(0).min() > 0.75


def test_released_directions_follow_truths_that_overlap(tmp_path: Path) -> None:
    """Released, steepness rises above what orthonormal directions can reach, and interference stays small."""
    held = fit(tmp_path, epochs=2, samples=4096)
    freed = fit(
        tmp_path, epochs=2, samples=4096, stage1=lambda params: PolarAscent(params, release_after=16), stage2=None
    )
    gram = freed.U.detach() @ freed.U.detach().T
    torch.testing.assert_close(gram.diagonal(), torch.ones(5))
    assert 0.01 < float((gram - torch.eye(5)).abs().max()) < 0.5
    inputs = torch.cat(held.target.feature_inputs(20))
    steepness = [float(module.curvature.at(inputs, 5)(module.U.detach()).square().mean()) for module in (held, freed)]
    assert steepness[1] > steepness[0]
