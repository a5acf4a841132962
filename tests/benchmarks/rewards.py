"""The rule rewards for both arms of a benchmark."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from rest_trl.regions import Turn
from rest_trl.rewards import LayoutReward, RuleReward, ToolCallReward
from rest_trl.tool_calls import get_syntax


def rule_rewards(tokenizer: PreTrainedTokenizerBase) -> list[RuleReward]:
    """
    Rewards that read decoded completions, as they would with GRPO. [`ResTGRPOTrainer`] binds them to its own parse.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's.
    """
    syntax = get_syntax("hermes")

    def read(completion_ids: Sequence[Sequence[int]]) -> list[list[Turn]]:
        # The rewards read the parse alone, so the tokens' places are left out.
        return [[Turn(syntax.parse(text), text, 0, np.zeros(0))] for text in tokenizer.batch_decode(completion_ids)]

    return [reward.bind(syntax.name, read, "static", 1) for reward in (LayoutReward(), ToolCallReward())]
