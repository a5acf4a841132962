"""Credit: the part of the reward that each token can still decide."""

from .advantages import Segment, credited_advantages
from .calls import call_segments
from .rewards import DecomposedReward


__all__ = ["DecomposedReward", "Segment", "call_segments", "credited_advantages"]
