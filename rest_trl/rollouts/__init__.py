"""A rollout and how it is sampled: branched after the reasoning, and with wasted groups replaced."""

from .rollout import Rollout


__all__ = ["Rollout"]
