"""Networks to decompose."""

from eigen_lightning.targets.network import Network
from eigen_lightning.targets.target import Target
from eigen_lightning.targets.toys.tms import TMSTarget
from eigen_lightning.targets.toys.xor import XORTarget
from eigen_lightning.targets.transformer import Transformer

__all__ = ["Network", "TMSTarget", "Target", "Transformer", "XORTarget"]
