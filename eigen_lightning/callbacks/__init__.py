"""Thin callbacks: a metric, when to run it, where its result goes."""

from eigen_lightning.callbacks.health import Health
from eigen_lightning.callbacks.interference import Interference
from eigen_lightning.callbacks.predictions import PredictionWriter
from eigen_lightning.callbacks.run_checkpoint import RunCheckpoint
from eigen_lightning.callbacks.run_record import RunRecord
from eigen_lightning.callbacks.scorecard import Scorecard
from eigen_lightning.callbacks.summary import Summary
from eigen_lightning.callbacks.top_examples import TopExamples

__all__ = [
    "Health",
    "Interference",
    "PredictionWriter",
    "RunCheckpoint",
    "RunRecord",
    "Scorecard",
    "Summary",
    "TopExamples",
]
