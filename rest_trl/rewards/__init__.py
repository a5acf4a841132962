"""Rule rewards as TRL reward functions: format score and tool-call correctness (ToolRL, arXiv 2504.13958; ResT)."""

from .functions import get_layout_reward, get_tool_call_reward, layout_reward, tool_call_reward
from .schedules import SCHEDULES, RewardBounds, reward_bounds
from .scoring import call_score, follows_layout, is_exact, json_equal


__all__ = [
    "SCHEDULES",
    "RewardBounds",
    "call_score",
    "follows_layout",
    "get_layout_reward",
    "get_tool_call_reward",
    "is_exact",
    "json_equal",
    "layout_reward",
    "reward_bounds",
    "tool_call_reward",
]
