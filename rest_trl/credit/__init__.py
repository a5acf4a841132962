"""Credit: the part of the reward that each token can still decide."""

from .advantages import branched_advantages, credited_advantages
from .segments import DecomposedReward, Segment


__all__ = ["DecomposedReward", "Segment", "branched_advantages", "credited_advantages"]
