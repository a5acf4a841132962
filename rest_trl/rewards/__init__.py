"""Rule rewards as TRL reward functions: layout score and tool-call correctness (ToolRL, arXiv 2504.13958; ResT)."""

from .base import RuleReward
from .names import REWARDS, get_reward_func
from .rule_rewards import LayoutReward, ToolCallReward
from .schedules import SCHEDULES, RewardBounds, reward_bounds
from .scoring import call_score, follows_layout, is_exact, json_equal


__all__ = [
    "REWARDS",
    "SCHEDULES",
    "LayoutReward",
    "RewardBounds",
    "RuleReward",
    "ToolCallReward",
    "call_score",
    "follows_layout",
    "get_reward_func",
    "is_exact",
    "json_equal",
    "reward_bounds",
]
