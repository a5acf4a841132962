"""Credit: the part of the reward that each token can still decide."""

from .advantages import Segment, credited_advantages


__all__ = ["Segment", "credited_advantages"]
