"""Curvature of directions: exact, matrix-free, sample by sample."""

from eigen_lightning.curvature.directional import Curvature, GaussNewton, Nested
from eigen_lightning.curvature.divergence import KL, MSE, CrossEntropy, Divergence, divergence_named
from eigen_lightning.curvature.factor import Factor
from eigen_lightning.curvature.metric_cache import MetricCache
from eigen_lightning.curvature.on_batch import CurvatureOnBatch
from eigen_lightning.curvature.partwise import PartwiseSteepness
from eigen_lightning.curvature.readout import Readout

__all__ = [
    "KL",
    "MSE",
    "CrossEntropy",
    "Curvature",
    "CurvatureOnBatch",
    "Divergence",
    "Factor",
    "GaussNewton",
    "MetricCache",
    "Nested",
    "PartwiseSteepness",
    "Readout",
    "divergence_named",
]
