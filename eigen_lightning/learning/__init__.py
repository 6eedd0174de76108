"""Learning the directions."""

from eigen_lightning.learning.module import SparseEigendecomposition
from eigen_lightning.learning.normalization import TraceNormalization
from eigen_lightning.learning.polar import PolarAscent
from eigen_lightning.learning.row_parallel import RowParallel
from eigen_lightning.learning.starts import Starts

__all__ = ["PolarAscent", "RowParallel", "SparseEigendecomposition", "Starts", "TraceNormalization"]
