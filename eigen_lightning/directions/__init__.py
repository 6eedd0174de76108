"""Objectives of directions, and the steps and starts that climb them."""

from eigen_lightning.directions.losses import Coverage, Interference, Steepness
from eigen_lightning.directions.polar import PolarAscent, polar
from eigen_lightning.directions.start import Start

__all__ = ["Coverage", "Interference", "PolarAscent", "Start", "Steepness", "polar"]
