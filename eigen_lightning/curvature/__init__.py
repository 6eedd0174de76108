"""Curvature of directions: exact, matrix-free, sample by sample."""

from eigen_lightning.curvature.directional import Curvature, CurvatureOnBatch, GaussNewton, Nested
from eigen_lightning.curvature.divergence import KL, MSE, CrossEntropy, Divergence, divergence_named
from eigen_lightning.curvature.metric_cache import MetricCache
from eigen_lightning.curvature.readout import Readout

__all__ = [
    "KL",
    "MSE",
    "CrossEntropy",
    "Curvature",
    "CurvatureOnBatch",
    "Divergence",
    "GaussNewton",
    "MetricCache",
    "Nested",
    "Readout",
    "divergence_named",
]
