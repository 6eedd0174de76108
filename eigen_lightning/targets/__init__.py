"""Networks to decompose."""

from eigen_lightning.targets.target import Target
from eigen_lightning.targets.tms import TMSTarget
from eigen_lightning.targets.transformer import Transformer
from eigen_lightning.targets.xor import XORTarget

__all__ = ["TMSTarget", "Target", "Transformer", "XORTarget"]
