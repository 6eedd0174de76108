"""U split over processes by rows gives what one process gives, in less memory on each."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from eigen_lightning.learning import SparseEigendecomposition
from eigen_lightning.learning.scaled_curvature import ScaledCurvature
from tests.kinds import KINDS, Kinds
from tests.processes import CommandProcess
from tests.resume import runs
from tests.resume.test_resume import killed_and_finished

BOUND = 1e-6
SPLIT = ("row_parallel",)
MESH = (
    "RowParallel",
    *("--trainer.strategy.data_parallel_size", "2"),
    *("--trainer.strategy.tensor_parallel_size", "2"),
)
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
POLAR = {"class_path": "PolarAscent", "init_args": {"momentum": 0.5}}

# Seven directions: more than XOR's six parameters, and no number of processes shares them evenly.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "xor, two Adams": ("xor", {}, {"stage1": ADAM, "stage2": ADAM}),
    "xor, polar and Adam": ("xor", {}, {"stage1": POLAR, "stage2": ADAM}),
    "tms, polar": ("tms", {"batch_size": 256, "samples_per_epoch": 2560}, {}),
    "tms, polar, released": (
        "tms",
        {"batch_size": 256, "samples_per_epoch": 2560},
        {
            "stage1": {"class_path": "PolarAscent", "init_args": {"release_after": 5}},
            "stage2": None,
            "interference_form": "norm",
            "stage2_curvature": "stale",
        },
    ),
    "tms, steps on parts": ("tms", {"batch_size": 512, "samples_per_epoch": 5120}, {"steps_per_batch": 2}),
    # A gradient from a handful of tokens is badly conditioned, and its polar factor shows float32's rounding magnified.
    "text, polar": ("file", {"batch_size": 8}, {}),
}


class Cases:
    """Finished runs of each case."""

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds
        self._finished: dict[Any, Path] = {}

    def config(self, case: str) -> tuple[str, dict[str, Any]]:
        kind, data, model = CASES[case]
        config = self.kinds.config(kind, **data)
        config["model"] |= {"n_directions": 7, **model}
        scorecard = {"random_draws": 1, "train_samples": 64, "values_per_feature": 4, "n_examples": 5}
        more = [{"class_path": "Health"}, {"class_path": "Scorecard", "init_args": scorecard}]
        config["trainer"]["callbacks"] = [*config["trainer"]["callbacks"], *more]
        return kind, config

    def finished(self, case: str, ranks: int = 1, strategy: tuple[str, ...] = SPLIT) -> Path:
        key = (case, ranks, strategy)
        if key not in self._finished:
            kind, config = self.config(case)
            folder = self.kinds.fresh(f"rows-{len(self._finished)}", kind)
            CommandProcess(
                runs.arguments(config, folder), folder.with_suffix(".log"), ranks, strategy=strategy
            ).succeed()
            self._finished[key] = folder
        return self._finished[key]

    def differences(self, case: str, ranks: int, strategy: tuple[str, ...] = SPLIT) -> dict[str, float]:
        return compared(self.finished(case), self.finished(case, ranks, strategy))


@pytest.fixture(scope="module")
def cases(kinds: Kinds) -> Cases:
    return Cases(kinds)


def compared(one: Path, other: Path) -> dict[str, float]:
    """Largest difference of two runs' numbers, by file."""
    found = runs.largest_difference(one, other)
    found["optimizers"] = largest_in_optimizers(one, other)
    cards = [json.loads((folder / "scorecard.json").read_text()) for folder in (one, other)]
    found["scorecard"] = largest_among(*cards)
    return found


def optimizers(folder: Path) -> list[Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]


def largest_in_optimizers(one: Path, other: Path) -> float:
    """Largest difference of the optimizers' states, each against the largest number in it."""
    found = 0.0
    for mine, theirs in zip(optimizers(one), optimizers(other), strict=True):
        assert mine["param_groups"] == theirs["param_groups"]
        for name, value in mine["state"].get(0, {}).items():
            a, b = torch.as_tensor(value), torch.as_tensor(theirs["state"][0][name])
            assert a.shape == b.shape
            found = max(found, float((a - b).abs().max() / a.abs().max()))
    return found


def largest_among(one: Any, other: Any) -> float:
    """Largest difference of the numbers of two JSON trees, relative where they are above 1."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max([largest_among(value, other[key]) for key, value in one.items()], default=0.0)
    if isinstance(one, list):
        return max([largest_among(*pair) for pair in zip(one, other, strict=True)], default=0.0)
    if isinstance(one, float):
        return abs(one - other) / max(1.0, abs(one))
    assert one == other
    return 0.0


@pytest.mark.parametrize("case", ["xor, polar and Adam", "tms, polar", "text, polar"])
def test_two_processes_with_a_share_of_the_rows_give_what_one_gives(cases: Cases, case: str) -> None:
    found = cases.differences(case, 2)
    assert max(found.values()) <= BOUND, found


@pytest.mark.slow
def test_parity_table(cases: Cases, capsys: pytest.CaptureFixture[str]) -> None:
    """2, 3 and 4 processes with a share of the rows, and 2 groups of 2 that also share out the samples."""
    worst = 0.0
    for case in CASES:
        for name, ranks, strategy in [("2", 2, SPLIT), ("3", 3, SPLIT), ("4", 4, SPLIT), ("2 x 2", 4, MESH)]:
            found = cases.differences(case, ranks, strategy)
            worst = max(worst, *found.values())
            with capsys.disabled():
                print(f"\n{case}, {name} processes: " + ", ".join(f"{k} {v:.1e}" for k, v in found.items()), end="")
    with capsys.disabled():
        print(f"\nlargest of all: {worst:.2g}")
    assert worst <= BOUND


def test_a_killed_run_goes_on(kinds: Kinds, start: Callable[..., CommandProcess]) -> None:
    killed_and_finished(kinds, start, "tms", 107, ranks=2, strategy=SPLIT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [101, 102])
def test_killed_with_two_workers(kinds: Kinds, start: Callable[..., CommandProcess], kind: str, number: int) -> None:
    killed_and_finished(kinds, start, kind, number, ranks=2, strategy=SPLIT, num_workers=2)


@pytest.mark.parametrize(
    ("case", "before", "after"),
    [
        ("xor, polar and Adam", 1, 2),
        ("xor, polar and Adam", 2, 1),
        pytest.param("xor, two Adams", 2, 3, marks=pytest.mark.slow),
        pytest.param("tms, polar, released", 1, 3, marks=pytest.mark.slow),
        pytest.param("text, polar", 3, 1, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_with_another_number_of_processes(cases: Cases, case: str, before: int, after: int) -> None:
    """A checkpoint is the same whoever wrote it: stopped in the middle of an epoch, and on as if never stopped."""
    kind, config = cases.config(case)
    saving = {"class_path": "RunCheckpoint", "init_args": {"every_n_steps": 1}}
    config["trainer"]["callbacks"] = [*config["trainer"]["callbacks"], saving]
    folder = cases.kinds.fresh(f"from-{before}-to-{after}-{kind}", kind)
    args = runs.arguments(config, folder)

    def stop_at_step_three(rank: int) -> None:
        original = SparseEigendecomposition.training_step

        def step(self: Any, batch: Any, batch_idx: int) -> Any:
            if self.trainer.global_step == 3:
                os._exit(9)
            return original(self, batch, batch_idx)

        SparseEigendecomposition.training_step = step  # type: ignore[method-assign]

    stopped = CommandProcess(args, folder.with_suffix(".log"), before, stop_at_step_three, strategy=SPLIT)
    assert stopped.wait() == [9] * before, stopped.log.read_text()
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    args += ["--ckpt_path", "last"]
    CommandProcess(args, folder.with_suffix(".log"), after, strategy=SPLIT).succeed()
    found = compared(cases.finished(case), folder)
    assert max(found.values()) <= BOUND, found


def test_a_direction_that_is_not_finite_is_named_by_its_number_in_all_of_them(kinds: Kinds) -> None:
    """And all processes stop, though only one has it."""
    folder = kinds.fresh("rows-not-finite", "xor")

    def spoil_the_first_row(rank: int) -> None:
        original = ScaledCurvature.value_and_gradient

        def spoiled(self: Any, directions: Any, batch: Any, objective: Any) -> Any:
            curvature, gradient = original(self, directions, batch, objective)
            if rank == 1:
                curvature[0, 5], gradient[0] = torch.inf, torch.nan
            return curvature, gradient

        ScaledCurvature.value_and_gradient = spoiled  # type: ignore[method-assign]

    args = runs.arguments(kinds.config("xor"), folder)
    process = CommandProcess(args, folder.with_suffix(".log"), 2, spoil_the_first_row, strategy=SPLIT)
    assert process.wait() == [2, 2], process.log.read_text()[-3000:]
    # Three directions: two on the first process, one on the second.
    assert process.log.read_text().count("d2D of direction 2 is not finite") == 2
    assert "rank 1" in process.log.read_text()
    kept = load_file(folder / "checkpoints" / "offending_batch.rank1.safetensors")
    assert len(kept["U"]) == 1
    assert not kept["curvature"][0, 5].isfinite()


def test_what_can_not_work_is_refused_in_one_line(kinds: Kinds) -> None:
    plain = ("ModelParallelStrategy", "--trainer.strategy.save_distributed_checkpoint", "false")
    one_row = ("RowParallel", "--trainer.strategy.tensor_parallel_size", "1")
    reseed = [{"class_path": "Health", "init_args": {"reseed": True}}]
    for number, (strategy, ranks, change, says) in enumerate(
        [
            (plain, 2, {}, "row_parallel to split U over devices, got ModelParallelStrategy"),
            (one_row, 2, {}, "the number of devices, 2, got 1 times 1"),
            (SPLIT, 4, {}, "got 5, which leaves one without: use 3 devices"),
            (SPLIT, 2, {"callbacks": reseed}, "without reseed"),
        ]
    ):
        folder = kinds.fresh(f"rows-refused-{number}", "tms")
        config = kinds.config("tms", batch_size=64)
        config["trainer"] |= change
        args = runs.arguments(config, folder)
        process = CommandProcess(args, folder.with_suffix(".log"), ranks, strategy=strategy)
        assert process.wait() == [2] * ranks, process.log.read_text()[-3000:]
        lines = process.log.read_text().splitlines()
        assert len(lines) == ranks, lines
        assert all(says in line for line in lines), lines


def test_looking_again_with_the_rows_split_finds_the_same(cases: Cases) -> None:
    """``test`` and ``predict``, on a copy of a run that one process made."""
    whole = cases.finished("tms, polar")
    folder = whole.with_name("rows-again")
    shutil.copytree(whole, folder)
    (folder / "scorecard.json").unlink()
    for command in ("test", "predict"):
        args = [command, "--config", str(whole / "config.yaml"), "--run_dir", str(folder), "--quiet", "true"]
        CommandProcess(args, folder.with_suffix(".log"), 2, strategy=SPLIT).succeed()
    cards = [json.loads((run / "scorecard.json").read_text()) for run in (whole, folder)]
    assert largest_among(cards[0]["learned"], cards[1]["learned"]) <= BOUND
    assert [path.name for path in folder.glob("predictions*")] == ["predictions.parquet"]
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    assert sorted(table["sample_id"]) == list(range(64))
    best = json.loads((folder / "top_examples.jsonl").read_text().splitlines()[6])["examples"][0]
    assert table["direction_006"][table["sample_id"].index(best["sample_id"])] == pytest.approx(best["value"], rel=1e-5)
