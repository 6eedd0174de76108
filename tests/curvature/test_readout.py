"""The metric pulled back through a linear readout."""

import pytest
import torch

from eigen_lightning.curvature import KL, MSE, CrossEntropy, Divergence, Readout
from eigen_lightning.curvature import readout as module
from eigen_lightning.curvature.categorical import categorical_metric
from eigen_lightning.curvature.readout import check_readout, has_pull_back, pulled_back_metric


def example(dtype: torch.dtype = torch.float64) -> tuple[Readout, torch.Tensor]:
    weight, hidden = torch.randn(40, 6, dtype=dtype), torch.randn(3, 5, 6, dtype=dtype)
    return Readout(weight, torch.randn(40, dtype=dtype)), hidden


@pytest.mark.parametrize("divergence", [KL(), MSE()], ids=["kl", "mse"])
def test_the_metric_is_the_pulled_back_hessian_of_the_divergence(divergence: Divergence) -> None:
    readout, hidden = example()
    metric = pulled_back_metric(divergence, readout, hidden)
    reference = readout(hidden[1, 2])
    exact = torch.func.hessian(lambda h: divergence.value(readout(h), reference))(hidden[1, 2])
    torch.testing.assert_close(metric[1, 2], exact)


def test_samples_at_once_do_not_change_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    readout, hidden = example()
    whole = categorical_metric(readout(hidden), readout.weight)
    monkeypatch.setattr(module, "SAMPLES_AT_ONCE", 4)
    # The common center moves with the samples it is taken over; the metric does not.
    torch.testing.assert_close(pulled_back_metric(KL(), readout, hidden), whole)


def test_divergences_of_ones_own_have_no_pull_back_unless_they_say_so() -> None:
    class Own(Divergence):
        def value(self, outputs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
            return (outputs - reference).square().sum(-1)

    assert [has_pull_back(each) for each in (KL(), MSE(), CrossEntropy(), Own())] == [True, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounding_of_the_networks_own_precision_is_no_other_readout(dtype: torch.dtype) -> None:
    readout, hidden = example(dtype)
    check_readout(readout, hidden.double(), readout(hidden))
