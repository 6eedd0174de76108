"""The two stages of a batch against autograd on the whole; counting, freezing, chunks and memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from eigen_lightning.curvature import MSE, Nested, losses
from eigen_lightning.data import TMS, XOR, Batch
from eigen_lightning.learning import SparseEigendecomposition, Starts, TraceNormalization
from eigen_lightning.learning.memory import rows_for
from eigen_lightning.run.errors import UserError
from eigen_lightning.targets import TMSTarget, XORTarget

PUBLISHED: dict[str, Any] = {
    "stage1": lambda params: torch.optim.Adam(params, lr=0.01),
    "stage2": None,
    "interference_form": "norm",
    "stage2_curvature": "stale",
    "normalization": None,
    "starts": None,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def bare_trainer(folder: Path, epochs: int) -> Trainer:
    """A trainer that trains, and nothing else."""
    return Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )


def fitted(folder: Path, batches: int = 2, epochs: int = 1, **kwargs: Any) -> tuple[SparseEigendecomposition, Trainer]:
    module = SparseEigendecomposition(XORTarget(), 3, **kwargs)
    trainer = bare_trainer(folder, epochs)
    trainer.fit(module, datamodule=XOR(batch_size=8, samples_per_epoch=8 * batches, seed=0))
    return module, trainer


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=1e-3)


def after_first_step(folder: Path, **kwargs: Any) -> tuple[Tensor, Tensor, Batch]:
    """U before and after one batch, and the batch."""
    untouched, _ = fitted(folder, batches=1, epochs=0, **kwargs)
    module, _ = fitted(folder, batches=1, **kwargs)
    data = XOR(batch_size=8, samples_per_epoch=8, seed=0)
    data.setup()
    return untouched.U.detach().clone(), module.U.detach(), data.train_set.batch(0, torch.arange(8))


def expected_stages(module: SparseEigendecomposition, start: Tensor, batch: Batch, form: Any, fresh: bool) -> Tensor:
    """Both stages by autograd on nested products, no chunks, no statistic."""
    nested = Nested(module.target, MSE())

    def stepped(u: Tensor, loss: Tensor) -> Tensor:
        moved = u.detach() - 1e-3 * torch.autograd.grad(loss, u)[0]
        return torch.nn.functional.normalize(moved, dim=-1)

    u = start.clone().requires_grad_()
    curvature = nested.at(batch.inputs, 3)(u)
    updated = stepped(u, -losses.steepness(curvature)).requires_grad_()
    seen = nested.at(batch.inputs, 3)(updated) if fresh else curvature.detach()
    statistic, cosine = losses.coactivation(seen), losses.cosines(updated)
    loss = losses.interference(statistic, cosine, form, seen[0].numel(), batch.inputs.numel())
    return stepped(updated, 5.0 * loss)


@pytest.mark.parametrize("form", ["squared", "norm"])
@pytest.mark.parametrize("timing", ["fresh", "stale"])
def test_a_batch_is_the_two_stages_written_out(folder: Path, form: str, timing: str) -> None:
    kwargs = {
        "stage1": sgd,
        "stage2": sgd,
        "interference_weight": 5.0,
        "interference_form": form,
        "stage2_curvature": timing,
        "normalization": None,
        "starts": None,
        "rows": 2,
    }
    start, end, batch = after_first_step(folder, **kwargs)
    module, _ = fitted(folder, epochs=0, **kwargs)
    torch.testing.assert_close(end, expected_stages(module, start, batch, form, timing == "fresh"), rtol=0, atol=2e-6)
    assert (end - start).abs().max() > 1e-4


@pytest.mark.parametrize("kwargs", [{}, PUBLISHED, {"stage1": sgd, "stage2": sgd}], ids=["polar", "published", "two"])
def test_global_step_counts_batches_and_rows_stay_unit(folder: Path, kwargs: dict[str, Any]) -> None:
    module, trainer = fitted(folder, batches=4, epochs=2, **kwargs)
    assert trainer.global_step == 8
    torch.testing.assert_close(module.U.detach().norm(dim=-1), torch.ones(3))


def test_the_targets_weights_stay_and_get_no_gradient(folder: Path) -> None:
    module, _ = fitted(folder, batches=4, **PUBLISHED)
    kept, _ = module.run_folder.read_target()
    for name, tensor in module.target.network.named_parameters():
        assert torch.equal(tensor, kept[name])
        assert tensor.grad is None
        assert not tensor.requires_grad


def test_target_is_neither_in_the_state_dict_nor_among_the_parameters(folder: Path) -> None:
    module, _ = fitted(folder)
    assert list(module.state_dict()) == ["U"]
    assert [name for name, _ in module.named_parameters()] == ["U"]


def test_chunks_do_not_change_the_result(folder: Path) -> None:
    kwargs = {"stage1": sgd, "stage2": sgd, "starts": Starts(count=3, steps=5, samples=16)}
    whole, parts = (fitted(folder, batches=3, rows=rows, **kwargs)[0].U.detach() for rows in (64, 1))
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-6)


def test_out_of_memory_halves_the_chunk_and_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    module, _ = fitted(folder, rows=3)
    batch = Batch(torch.rand(4, 2), torch.arange(4))
    expected = module.scaled.values(module.U.detach(), batch)
    at = module.curvature.at

    def scarce(inputs: Tensor, rows: int, *args: Any) -> Any:
        if rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return at(inputs, rows, *args)

    monkeypatch.setattr(module.curvature, "at", scarce)
    other = Batch(batch.inputs.clone(), batch.sample_id)
    torch.testing.assert_close(module.scaled.values(module.U.detach(), other), expected)
    assert module.rows == 1
    assert "1 directions are evaluated at a time" in caplog.text


def test_other_errors_are_not_taken_for_want_of_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = fitted(folder, rows=3)

    def broken(*args: Any) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(module.curvature, "at", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        module.scaled.values(module.U.detach(), Batch(torch.rand(4, 2), torch.arange(4)))
    assert module.rows == 3


def test_rows_follow_the_memory_budget(folder: Path) -> None:
    module, _ = fitted(folder)
    inputs = torch.rand(1024, 2)
    assert rows_for(module.curvature, inputs, 1e-12) == 1
    small, large = (rows_for(module.curvature, inputs, gib) for gib in (1e-3, 2e-3))
    assert 1 < small < large


def test_best_start_is_chosen_by_steepness_and_repeats(folder: Path) -> None:
    starts = Starts(count=4, steps=10, samples=16)
    first, again = (fitted(folder, batches=2, starts=starts)[0].U.detach() for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_outputs_a_thousand_times_larger_give_the_same_directions(tmp_path: Path, power: float) -> None:
    """Under MSE curvature grows with the square of the outputs, the losses with the fourth power."""

    class Louder(TMSTarget):
        factor = 1.0

        def outputs(self, weights: Any, inputs: Tensor) -> Tensor:
            return self.factor * super().outputs(weights, inputs)

    found = []
    for factor in (1.0, 1000.0):
        target = Louder()
        target.factor = factor
        module = SparseEigendecomposition(
            target, 5, normalization=TraceNormalization(power=power), starts=Starts(count=2, steps=10, samples=1024)
        )
        trainer = bare_trainer(tmp_path, 1)
        trainer.fit(module, datamodule=TMS(batch_size=256, samples_per_epoch=1024, seed=0))
        found.append(module.U.detach())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_directions", 0), ("rows", 0), ("interference_weight", -1.0), ("memory_budget", -1.0), ("cache_gib", -0.5)],
)
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    arguments = {"n_directions": 3, name: value}
    with pytest.raises(UserError, match=rf"model\.{name}"):
        SparseEigendecomposition(XORTarget(), **arguments)
