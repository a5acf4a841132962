"""The rule rewards for both arms of a benchmark."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rest_trl.rewards import LayoutReward, ToolCallReward
from rest_trl.rewards.reading import read_turns
from rest_trl.rewards.rule_rewards import RuleReward
from rest_trl.tool_calls import ParsedCompletion, get_syntax


def rule_rewards(tokenizer: PreTrainedTokenizerBase) -> list[RuleReward]:
    """
    Rewards that read decoded completions, as they would with GRPO. [`ResTGRPOTrainer`] binds them to its own parse.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's.
    """
    syntax = get_syntax("hermes")

    def read(completion_ids: Sequence[Sequence[int]]) -> list[list[ParsedCompletion]]:
        return [read_turns(text, syntax) for text in tokenizer.batch_decode(completion_ids)]

    return [reward.bind(syntax.name, read, "static", 1) for reward in (LayoutReward(), ToolCallReward())]
