"""Credit: the part of the reward that each token can still decide."""

from .advantages import credited_advantages
from .branches import branched_advantages
from .rewards import DecomposedReward
from .segments import Segment


__all__ = ["DecomposedReward", "Segment", "branched_advantages", "credited_advantages"]
