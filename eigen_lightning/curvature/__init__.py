"""Curvature of directions: exact, matrix-free, sample by sample."""

from eigen_lightning.curvature.batch import LinearizedBatch, Objective
from eigen_lightning.curvature.divergence import KL, MSE, CrossEntropy, Divergence, divergence_named
from eigen_lightning.curvature.linearize import Linearizer, Network
from eigen_lightning.curvature.memory import Chunk
from eigen_lightning.curvature.parameters import ParameterSpace
from eigen_lightning.curvature.readout import Readout
from eigen_lightning.curvature.sample_cache import SampleCache
from eigen_lightning.curvature.scale import Scale, TraceNormalization

__all__ = [
    "KL",
    "MSE",
    "Chunk",
    "CrossEntropy",
    "Divergence",
    "LinearizedBatch",
    "Linearizer",
    "Network",
    "Objective",
    "ParameterSpace",
    "Readout",
    "SampleCache",
    "Scale",
    "TraceNormalization",
    "divergence_named",
]
