"""Thin callbacks: a metric, when to run it, where its result goes."""

from eigen_lightning.callbacks.cards import Cards
from eigen_lightning.callbacks.health import Health
from eigen_lightning.callbacks.interference import Interference
from eigen_lightning.callbacks.intervention import Interventions
from eigen_lightning.callbacks.predictions import PredictionWriter
from eigen_lightning.callbacks.report import ReportWriter
from eigen_lightning.callbacks.run_checkpoint import RunCheckpoint
from eigen_lightning.callbacks.run_record import RunRecord
from eigen_lightning.callbacks.scorecard import Scorecard
from eigen_lightning.callbacks.summary import Summary
from eigen_lightning.callbacks.tensorboard import TensorBoard
from eigen_lightning.callbacks.top_examples import TopExamples

__all__ = [
    "Cards",
    "Health",
    "Interference",
    "Interventions",
    "PredictionWriter",
    "ReportWriter",
    "RunCheckpoint",
    "RunRecord",
    "Scorecard",
    "Summary",
    "TensorBoard",
    "TopExamples",
]
