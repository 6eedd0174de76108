"""The mean Gauss-Newton product against another library's, curvlinops."""

import pytest
import torch
from torch import nn

from eigen_lightning.analysis.controls import mean_hessian_product
from eigen_lightning.curvature import KL, MSE, Divergence, Linearizer
from tests.gauss_newton_oracle import OracleProduct
from tests.networks import SmallNetwork, transformer_network, unit_rows

pytest.importorskip("curvlinops", reason="curvlinops is absent: make install brings it, without its dependencies")

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def transformer(dtype: torch.dtype, readout: bool = True) -> tuple[SmallNetwork, Divergence, nn.Module, torch.Tensor]:
    network = transformer_network()
    network.module.to(dtype)
    if not readout:
        network.readout = None
    return network, KL(), nn.CrossEntropyLoss(), torch.randint(50, (3, 12))


def transformer_logits(dtype: torch.dtype) -> tuple[SmallNetwork, Divergence, nn.Module, torch.Tensor]:
    return transformer(dtype, readout=False)


def mlp(dtype: torch.dtype) -> tuple[SmallNetwork, Divergence, nn.Module, torch.Tensor]:
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    return SmallNetwork(module), MSE(), nn.MSELoss(), torch.randn(20, 4, dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", [transformer, transformer_logits, mlp])
def test_mean_hessian_product_is_that_of_curvlinops(case, dtype: torch.dtype) -> None:
    network, divergence, loss, inputs = case(dtype)
    directions = unit_rows(5, network.space.size, dtype)
    batch = Linearizer.prepare(network, divergence, inputs)(inputs)
    ours, theirs = mean_hessian_product([batch], directions), OracleProduct(network, loss, inputs)(directions)
    assert theirs.norm() > 0
    assert (ours - theirs).norm() <= TOLERANCE[dtype] * theirs.norm()
