"""Credit: the part of the reward that each token can still decide."""

from .advantages import Segment, credited_advantages
from .rewards import DecomposedReward


__all__ = ["DecomposedReward", "Segment", "credited_advantages"]
