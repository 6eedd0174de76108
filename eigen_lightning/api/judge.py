"""A finished run judged anew, on samples of one's own: no Trainer is needed."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from eigen_lightning.analysis.judging import JudgeSettings, Scorecard, make_controls
from eigen_lightning.analysis.judging import judge as judged
from eigen_lightning.analysis.subject import EvaluationSamples, Subject
from eigen_lightning.curvature import LinearizedBatch
from eigen_lightning.data.loader import as_stream
from eigen_lightning.data.stream import Batch

if TYPE_CHECKING:
    from eigen_lightning.api.asked_run import AskedRun


def judge(run: "AskedRun", data: Any, settings: JudgeSettings = JudgeSettings()) -> Scorecard:  # noqa: B008 - frozen
    """Judge a run's directions beside random, principal and, where they are known, true ones.

    Args:
        run: whose directions and target.
        data: a SampleStream, or what :func:`eigen_lightning.fit` makes one of.
        settings: on how many samples.

    Raises:
        UserError: where the target cannot take the samples.
    """
    stream, target, curvature = as_stream(data), run.target, run.manifest["curvature"]
    if stream.seed is None:
        stream.seed = run.manifest["seed"]
    stream.for_target = target
    stream.setup()
    device = next(target.network.parameters()).device
    first = next(stream.first_batches())
    target.check_inputs(first.inputs)
    linearizer = run.linearizer(first.inputs)

    def linearize(batch: Batch, samples: Any) -> LinearizedBatch:
        return linearizer(batch.inputs)

    def moved(batches: Iterable[Batch]) -> Iterator[Batch]:
        return (Batch(batch.inputs.to(device), batch.sample_id) for batch in batches)

    scale = curvature["scale"]
    power = 0.0 if scale is None else scale["power"]
    subject = Subject(target, linearizer, linearize, curvature["exponent"], power, device)
    samples = EvaluationSamples(
        stream.train_set,
        stream.evaluation_sets["heldout"],
        lambda: moved(stream.first_batches()),
        lambda: moved(stream.test_dataloader()),
    )
    directions = run.U.to(device)
    with torch.no_grad():
        controls = make_controls(subject, samples, directions, settings, run.manifest["seed"])
        return judged(subject, samples, directions, controls, settings)
