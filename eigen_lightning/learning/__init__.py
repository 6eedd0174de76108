"""Learning the directions."""

from eigen_lightning.learning.module import SparseEigendecomposition

__all__ = ["SparseEigendecomposition"]
