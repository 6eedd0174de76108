"""Networks to decompose."""

from eigen_lightning.targets.grammar import GrammarTransformer
from eigen_lightning.targets.network import Network
from eigen_lightning.targets.target import Target
from eigen_lightning.targets.toys.circuits import TMCSTarget
from eigen_lightning.targets.toys.groups import GroupsTarget
from eigen_lightning.targets.toys.induction import InductionTarget
from eigen_lightning.targets.toys.modular import ModularTarget
from eigen_lightning.targets.toys.residual_mlp import ResidualMLPTarget
from eigen_lightning.targets.toys.square import SquareTarget
from eigen_lightning.targets.toys.tms import TMSTarget
from eigen_lightning.targets.toys.tms_identity import TMSIdentityTarget
from eigen_lightning.targets.toys.xor import XORTarget
from eigen_lightning.targets.transformer import Transformer

__all__ = [
    "GrammarTransformer",
    "GroupsTarget",
    "InductionTarget",
    "ModularTarget",
    "Network",
    "ResidualMLPTarget",
    "SquareTarget",
    "TMCSTarget",
    "TMSIdentityTarget",
    "TMSTarget",
    "Target",
    "Transformer",
    "XORTarget",
]
