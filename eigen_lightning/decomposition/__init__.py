"""Learning the directions."""

from eigen_lightning.decomposition.module import SparseEigendecomposition
from eigen_lightning.decomposition.normalization import TraceNormalization
from eigen_lightning.decomposition.polar import PolarAscent
from eigen_lightning.decomposition.row_parallel import RowParallel
from eigen_lightning.decomposition.starts import Starts

__all__ = ["PolarAscent", "RowParallel", "SparseEigendecomposition", "Starts", "TraceNormalization"]
