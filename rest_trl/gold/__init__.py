"""Gold likelihood: the gold call as teacher of the reasonings that lead to it."""

from .rows import gold_weights, with_gold_rows
from .teacher import GoldTeacher, make_teacher


__all__ = ["GoldTeacher", "gold_weights", "make_teacher", "with_gold_rows"]
