"""Thin callbacks: a metric, when to run it, where its result goes."""

from eigen_lightning.learning.callbacks.cards import Cards
from eigen_lightning.learning.callbacks.expected_time import ExpectedTime
from eigen_lightning.learning.callbacks.health import Health
from eigen_lightning.learning.callbacks.interference import Interference
from eigen_lightning.learning.callbacks.intervention import Interventions
from eigen_lightning.learning.callbacks.predictions import PredictionWriter
from eigen_lightning.learning.callbacks.report import ReportWriter
from eigen_lightning.learning.callbacks.run_checkpoint import RunCheckpoint
from eigen_lightning.learning.callbacks.run_record import RunRecord
from eigen_lightning.learning.callbacks.scorecard import Scorecard
from eigen_lightning.learning.callbacks.summary import Summary
from eigen_lightning.learning.callbacks.tensorboard import TensorBoard
from eigen_lightning.learning.callbacks.top_examples import TopExamples
from eigen_lightning.learning.callbacks.whole_model import WholeModel

__all__ = [
    "Cards",
    "ExpectedTime",
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
    "WholeModel",
]
