"""
Rewards for calls as TRL reward functions: layout score and tool-call correctness against golds (ToolRL, arXiv
2504.13958; ResT), and validity by the tools' schemas.
"""

from .base import RuleReward
from .binding import REWARDS, Binding, bind_rewards, get_reward_func
from .rule_rewards import LayoutReward, ToolCallReward
from .schedules import SCHEDULES, RewardBounds, reward_bounds
from .schema_reward import ToolSchemaReward
from .scoring import call_score, follows_layout, is_exact, json_equal


__all__ = [
    "REWARDS",
    "SCHEDULES",
    "Binding",
    "LayoutReward",
    "RewardBounds",
    "RuleReward",
    "ToolCallReward",
    "ToolSchemaReward",
    "bind_rewards",
    "call_score",
    "follows_layout",
    "get_reward_func",
    "is_exact",
    "json_equal",
    "reward_bounds",
]
