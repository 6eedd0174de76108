"""Pages that open from disk, made from run folders alone."""

from eigen_lightning.report.comparison import Comparison, write_comparison
from eigen_lightning.report.writing import write_report

__all__ = ["Comparison", "write_comparison", "write_report"]
