"""The two stages of a batch against autograd on the whole; counting, freezing, caching and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from eigen_lightning.curvature import MSE, Linearizer, TraceNormalization
from eigen_lightning.data import TMS, XOR, Batch
from eigen_lightning.directions import PolarAscent, Start, Steepness
from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.learning.callbacks import Scorecard
from eigen_lightning.run.errors import UserError
from eigen_lightning.targets import XORTarget
from tests.classifier import Classifier, Points
from tests.toy_runs import bare_trainer
from tests.unruly import Spoils

PUBLISHED: dict[str, Any] = {
    "objective": "steepness",
    "exponent": 2.0,
    "stage1": lambda params: torch.optim.Adam(params, lr=0.01),
    "interference_weight": 1.0,
    "interference_form": "norm",
    "stage2_curvature": "stale",
    "normalization": None,
    "start": None,
}


@pytest.fixture(scope="module")
def folder(toy_folder: Path) -> Path:
    return toy_folder / "xor"


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=1e-3)


def fitted(folder: Path, batches: int = 2, epochs: int = 1, **kwargs: Any) -> tuple[SparseEigendecomposition, Trainer]:
    module = SparseEigendecomposition(XORTarget(), 3, **kwargs)
    trainer = bare_trainer(folder, epochs, limit_val_batches=0)
    trainer.fit(module, datamodule=XOR(batch_size=8, samples_per_epoch=8 * batches, seed=0))
    return module, trainer


def after_first_step(folder: Path, **kwargs: Any) -> tuple[Tensor, Tensor, Batch]:
    """U before and after one batch, and the batch."""
    untouched, _ = fitted(folder, batches=1, epochs=0, **kwargs)
    module, _ = fitted(folder, batches=1, **kwargs)
    data = XOR(batch_size=8, samples_per_epoch=8, seed=0)
    data.setup()
    return untouched.U.detach().clone(), module.U.detach(), data.train_set.batch(0, torch.arange(8))


def expected_stages(
    module: SparseEigendecomposition, start: Tensor, batch: Batch, form: Any, fresh: bool, exponent: float
) -> Tensor:
    """Both stages by autograd on nested products and the whole [samples, K, K] tensor."""
    nested = Linearizer.prepare(module.target, MSE(), batch.inputs, method="nested")(batch.inputs)

    def stepped(u: Tensor, loss: Tensor) -> Tensor:
        moved = u.detach() - 1e-3 * torch.autograd.grad(loss, u)[0]
        return torch.nn.functional.normalize(moved, dim=-1)

    u = start.clone().requires_grad_()
    d = nested.quadratic(u)
    updated = stepped(u, -d.pow(exponent).sum(0).mean()).requires_grad_()
    seen = nested.quadratic(updated) if fresh else d.detach()
    unit = torch.nn.functional.normalize(updated, dim=-1)
    pairs = torch.einsum("ks,ls,kl->skl", seen, seen, unit @ unit.T).tril(-1)
    loss = pairs.square().sum() / 8 if form == "squared" else pairs.square().sum().sqrt() / batch.inputs.numel()
    return stepped(updated, 5.0 * loss)


@pytest.mark.parametrize("form", ["squared", "norm"])
@pytest.mark.parametrize("timing", ["fresh", "stale"])
@pytest.mark.parametrize("exponent", [2.0, 1.5])
def test_a_batch_is_the_two_stages_written_out(folder: Path, form: str, timing: str, exponent: float) -> None:
    kwargs = {
        "objective": "steepness",
        "exponent": exponent,
        "stage1": sgd,
        "stage2": sgd,
        "interference_weight": 5.0,
        "interference_form": form,
        "stage2_curvature": timing,
        "normalization": None,
        "start": None,
        "rows": 2,
    }
    start, end, batch = after_first_step(folder, **kwargs)
    module, _ = fitted(folder, epochs=0, **kwargs)
    expected = expected_stages(module, start, batch, form, timing == "fresh", exponent)
    torch.testing.assert_close(end, expected, rtol=0, atol=2e-6)
    assert (end - start).abs().max() > 1e-4


@pytest.mark.parametrize("objective", ["coverage", "steepness"])
def test_the_default_step_is_the_polar_step_of_the_average_gradient(folder: Path, objective: Any) -> None:
    from eigen_lightning.directions import Coverage, polar
    from eigen_lightning.directions.polar import unit

    kwargs = {"objective": objective, "start": None, "normalization": None}
    start, end, batch = after_first_step(folder, **kwargs)
    module, _ = fitted(folder, epochs=0, **kwargs)
    d = Linearizer.prepare(module.target, MSE(), batch.inputs, method="nested")(batch.inputs)
    leaf = start.clone().requires_grad_()
    gradient = torch.autograd.grad(
        (Coverage if objective == "coverage" else Steepness)(3.0).value(d.quadratic(leaf)), leaf
    )[0]
    expected = unit(gradient, otherwise=start) if objective == "coverage" else polar(gradient)
    torch.testing.assert_close(end, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"objective": "steepness"}, PUBLISHED, {**PUBLISHED, "stage2": sgd}],
    ids=["coverage", "steepness", "published", "two"],
)
def test_global_step_counts_batches_and_rows_stay_unit(folder: Path, kwargs: dict[str, Any]) -> None:
    module, trainer = fitted(folder, batches=4, epochs=2, **kwargs)
    assert trainer.global_step == 8
    torch.testing.assert_close(module.U.detach().norm(dim=-1), torch.ones(3))


def test_the_targets_weights_stay_and_get_no_gradient(folder: Path) -> None:
    module, _ = fitted(folder, batches=4, **PUBLISHED)
    stored, _ = module.run_folder.read_target()
    for name, tensor in module.target.network.named_parameters():
        assert torch.equal(tensor, stored[name])
        assert tensor.grad is None
        assert not tensor.requires_grad


def test_target_is_neither_in_the_state_dict_nor_among_the_parameters(folder: Path) -> None:
    module, _ = fitted(folder)
    assert list(module.state_dict()) == ["U"]
    assert [name for name, _ in module.named_parameters()] == ["U"]


@pytest.mark.parametrize("objective", ["coverage", "steepness"])
def test_chunks_do_not_change_the_result(folder: Path, objective: Any) -> None:
    kwargs = {"objective": objective, "start": Start(steps=5, samples=16)}
    whole, parts = (fitted(folder, batches=3, rows=rows, **kwargs)[0].U.detach() for rows in (64, 1))
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-5)


def test_stage_2_is_left_out_where_rows_are_orthonormal(folder: Path) -> None:
    for kwargs, expected in (
        ({"objective": "steepness", "interference_weight": 1.0, "stage1": PolarAscent}, False),
        ({"objective": "coverage", "interference_weight": 1.0}, True),
        ({"objective": "coverage"}, False),
        (PUBLISHED, True),
    ):
        module, _ = fitted(folder, batches=1, **kwargs)  # type: ignore[arg-type]
        assert module.has_stage2 == expected


# ------------------------------------------------------------------------- samples that return, and other data


def heldout_curvature(module: SparseEigendecomposition, data: Points) -> Tensor:
    """d2D of U on held-out samples, through a linearizer that has seen nothing else."""
    inputs = data.evaluation_sets["heldout"].batch(0, torch.arange(24)).inputs
    return Linearizer.prepare(module.target, module.divergence, inputs)(inputs).d2D(module.U.detach())


def test_a_test_on_other_data_in_the_same_process_uses_nothing_of_the_first(tmp_path: Path) -> None:
    module = SparseEigendecomposition(Classifier(), 3, start=Start(samples=32, steps=3))
    trainer = bare_trainer(tmp_path, epochs=3)
    seen: list[Tensor] = []
    step = module.test_step
    module.test_step = lambda *args: seen.append(step(*args)) or seen[-1]  # type: ignore[method-assign]
    for seed in (1, 2):
        data = Points(seed)
        if seed == 1:
            trainer.fit(module, datamodule=data)
        seen.clear()
        trainer.test(module, datamodule=data, verbose=False)
        torch.testing.assert_close(torch.cat(seen, 1), heldout_curvature(module, data), rtol=1e-5, atol=1e-6)


def test_metrics_of_training_samples_are_cached_and_d2d_stays(tmp_path: Path) -> None:
    module = SparseEigendecomposition(Classifier(), 3, start=Start(samples=32, steps=3))
    data = Points(1)
    bare_trainer(tmp_path, 2).fit(module, datamodule=data)
    assert set(module.caches) == {"train", "heldout"}
    batch = data.train_set.batch(0, torch.tensor([3, 1, 3]))
    cached = module.linearize(batch, data.train_set)
    torch.testing.assert_close(cached.d2D(torch.eye(36)), module.linearize(batch).d2D(torch.eye(36)))


# ------------------------------------------------------------------------------------------------- precision


def test_a_target_in_bfloat16_learns_in_float32_and_is_judged(tmp_path: Path) -> None:
    module = SparseEigendecomposition(Classifier(torch.bfloat16), 3, start=Start(samples=32, steps=3))
    bare_trainer(tmp_path, 2, Scorecard(random_draws=2, train_samples=32)).fit(module, datamodule=Points(1))
    average = module.trainer.optimizers[0].state[module.U]["average"]
    assert {module.U.dtype, average.dtype, module.linearizer.probes.dtype} == {torch.float32}
    assert next(iter(module.target.weights.values())).dtype == torch.bfloat16
    card = json.loads((tmp_path / "scorecard.json").read_text())
    assert card["learned"]["steepness"] > 2 * card["random"]["steepness"]


# -------------------------------------------------------------------------------------- resuming, and refusals

BASE: dict[str, Any] = {"start": Start(samples=32, steps=2), "objective": "coverage"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    trainer = bare_trainer(folder, 2)
    trainer.fit(SparseEigendecomposition(Classifier(), 3, **BASE), datamodule=Points(1))
    trainer.save_checkpoint(folder / "two.ckpt")
    return folder / "two.ckpt"


def resumed(checkpoint: Path, epochs: int = 3, **changed: Any) -> SparseEigendecomposition:
    model = {"n_directions": 3, **BASE, **changed}
    module = SparseEigendecomposition(model.pop("target", Classifier()), **model)
    trainer = bare_trainer(checkpoint.parent, epochs)
    trainer.fit(module, datamodule=Points(1), ckpt_path=checkpoint, weights_only=True)
    return module


def test_a_resumed_run_goes_on_as_one_that_was_never_stopped(checkpoint: Path, tmp_path: Path) -> None:
    whole = SparseEigendecomposition(Classifier(), 3, **BASE)
    bare_trainer(tmp_path, 3).fit(whole, datamodule=Points(1))
    again = resumed(checkpoint)
    assert torch.equal(again.U, whole.U)
    assert again.learned == whole.learned


@pytest.mark.parametrize(
    ("name", "value", "saved"),
    [
        ("normalization", None, r"\{'power': 0\.0, "),
        ("normalization", TraceNormalization(power=1.0), r"'power': 0\.0"),
        ("normalization", TraceNormalization(probes=8), "'probes': 64"),
        ("divergence", "mse", "KL"),
        ("exponent", 2.0, "3.0"),
        ("objective", "steepness", "coverage"),
        ("n_directions", 4, "3"),
        ("curvature", "nested", "gauss_newton"),
        ("interference_weight", 1.0, "0.0"),
        ("interference_form", "norm", "squared"),
        ("stage2_curvature", "stale", "fresh"),
        ("readout", "off", "on"),
        ("stage1", sgd, "None"),
    ],
)
def test_what_changes_the_objective_is_refused_with_both_values(
    checkpoint: Path, name: str, value: Any, saved: str
) -> None:
    shown = {sgd: "SGD", "mse": "MSE", None: "None"}.get(value if not isinstance(value, TraceNormalization) else 0)
    shown = shown or (r"\{" if isinstance(value, TraceNormalization) else str(value))
    with pytest.raises(UserError, match=rf"expected model\.{name} of .*{saved}.* got .*{shown}.*set it back"):
        resumed(checkpoint, **{name: value})


def test_a_changed_target_is_refused(checkpoint: Path) -> None:
    class Other(Classifier):
        def network_with_weights(self, run: Any) -> Any:
            network = super().network_with_weights(run)
            network.body.bias.data[0] += 1
            return network

    with pytest.raises(UserError, match=r"expected model\.target of "):
        resumed(checkpoint, target=Other())


def test_what_changes_no_objective_is_taken(checkpoint: Path) -> None:
    resumed(checkpoint, cache_gib=0.5, memory_budget=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_directions", 0),
        ("rows", 0),
        ("interference_weight", -1.0),
        ("memory_budget", -1.0),
        ("cache_gib", -0.5),
        ("exponent", 0.5),
        ("dense_exponent", 9.0),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    arguments = {"n_directions": 3, name: value}
    with pytest.raises(UserError, match=rf"model\.{name}"):
        SparseEigendecomposition(XORTarget(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["coverage", "steepness"])
def test_a_start_whose_curvature_overflows_is_refused(tmp_path: Path, objective: Any) -> None:
    module = SparseEigendecomposition(Spoils(), 3, normalization=None, objective=objective, divergence="mse")
    with pytest.raises(UserError, match="finite curvature on the samples of the start"):
        bare_trainer(tmp_path, 1).fit(module, datamodule=TMS(features=5, batch_size=64, samples_per_epoch=512, seed=0))


@pytest.mark.parametrize("settings", [{}, {"objective": "coverage", "n_directions": "auto"}])
def test_what_the_start_decides_needs_a_start(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"expected model\.start"):
        SparseEigendecomposition(XORTarget(), **{"n_directions": 3, "start": None, **settings})


def test_parameters_that_do_not_move_the_outputs_are_refused_by_name(tmp_path: Path) -> None:
    class Idle(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.patterns = ("body.*", "idle")

        def network_with_weights(self, run: Any) -> Any:
            network = super().network_with_weights(run)
            network.idle = torch.nn.Parameter(torch.zeros(3))
            return network

    with pytest.raises(UserError, match="got idle, which the network does not use"):
        bare_trainer(tmp_path, 1).fit(SparseEigendecomposition(Idle(), 3), datamodule=Points(1))
