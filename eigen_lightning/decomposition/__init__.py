"""Learning the directions."""

from eigen_lightning.decomposition.module import SparseEigendecomposition
from eigen_lightning.decomposition.normalization import TraceNormalization
from eigen_lightning.decomposition.polar import PolarAscent
from eigen_lightning.decomposition.starts import Starts

__all__ = ["PolarAscent", "SparseEigendecomposition", "Starts", "TraceNormalization"]
