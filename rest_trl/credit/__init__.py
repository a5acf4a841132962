"""Credit: the part of the reward that each token can still decide."""

from .advantages import Segment, credited_advantages
from .branches import branched_advantages
from .rewards import DecomposedReward


__all__ = ["DecomposedReward", "Segment", "branched_advantages", "credited_advantages"]
