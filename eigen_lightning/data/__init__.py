"""Samples: toy streams and text, each sample with an identity of its own."""

from eigen_lightning.data.drawn import Drawn
from eigen_lightning.data.enumerated import Pairs
from eigen_lightning.data.grammar import Grammar
from eigen_lightning.data.loader import FromLoader
from eigen_lightning.data.stream import Batch, SampleSet, SampleStream
from eigen_lightning.data.tinystories import TinyStories
from eigen_lightning.data.tms import TMS
from eigen_lightning.data.xor import XOR

__all__ = ["TMS", "XOR", "Batch", "Drawn", "FromLoader", "Grammar", "Pairs", "SampleSet", "SampleStream", "TinyStories"]
