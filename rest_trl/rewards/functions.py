"""The rewards as TRL calls them."""

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from ..regions.token_bytes import TokenBytes
from ..tool_calls import ParsedCompletion, get_syntax
from .schedules import RewardBounds, check_schedule, reward_bounds
from .scoring import call_score, follows_layout, is_exact, json_equal, python_equal


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerState

Completion = str | list[dict[str, Any]]
LogMetric = Callable[[str, float], None]

# Not accelerate's logger, which demands a started accelerator: rewards are also called by hand.
logger = logging.getLogger(__name__)


@lru_cache(maxsize=4096)
def _parse_solution(tool_call_syntax: str, solution: str) -> ParsedCompletion:
    # Cached because a solution comes once per generation and reward function; so the warning comes once as well.
    gold = get_syntax(tool_call_syntax).parse(solution)
    if gold.errors:
        logger.warning(
            "A solution is not readable as %s (%s) and gives no correctness reward: %.300r",
            tool_call_syntax,
            gold.errors[0],
            solution,
        )
    return gold


def _text(completion: Completion) -> str:
    """What the policy wrote: the completion itself or the content of its last assistant message."""
    if isinstance(completion, str):
        return completion
    message = next((message for message in reversed(completion) if message["role"] == "assistant"), {"content": ""})
    if message.get("tool_calls"):
        raise ValueError(
            "the completion's tool calls are already taken out of its text, as with `GRPOTrainer(tools=...)`, and the "
            "rewards read the text: put the tools into the rendered prompt instead of passing `tools`"
        )
    content = message["content"] or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class _RuleReward:
    """A reward function with settings: a class and not a closure, so that other processes can be sent it."""

    __name__: ClassVar[str]

    def __init__(
        self,
        tool_call_syntax: str,
        schedule: str,
        steps_per_rollout: int,
        tokenizer: "PreTrainedTokenizerBase | None",
    ) -> None:
        check_schedule(schedule)
        if steps_per_rollout < 1:
            raise ValueError(f"steps_per_rollout must be at least 1, got {steps_per_rollout}")
        self._steps_per_rollout = steps_per_rollout
        self._syntax = get_syntax(tool_call_syntax)
        self._schedule = schedule
        self._token_bytes = None if tokenizer is None else TokenBytes(tokenizer, self._syntax.markers)

    def _parse(
        self,
        completions: Sequence[Completion],
        solution: Sequence[str],
        completion_ids: Sequence[Sequence[int]] | None,
    ) -> list[tuple[ParsedCompletion, ParsedCompletion]]:
        if self._token_bytes is None or completion_ids is None:
            texts = [_text(completion) for completion in completions]
        else:
            texts = [self._token_bytes.text(ids) for ids in completion_ids]
        return [
            (self._syntax.parse(text), _parse_solution(self._syntax.name, gold))
            for text, gold in zip(texts, solution, strict=True)
        ]

    def _bounds(self, trainer_state: "TrainerState | None") -> RewardBounds:
        if trainer_state is not None:
            steps = trainer_state.global_step, trainer_state.max_steps
            return reward_bounds(self._schedule, *(step // self._steps_per_rollout for step in steps))
        if self._schedule != "static":
            raise ValueError(
                f"{self.__name__} with schedule={self._schedule!r} depends on the training step, but got no "
                '`trainer_state`: pass it, as TRL does, or use schedule="static"'
            )
        return reward_bounds(self._schedule, 0, 0)


class _LayoutReward(_RuleReward):
    __name__ = "layout_reward"

    def __call__(
        self,
        completions: Sequence[Completion],
        solution: Sequence[str],
        trainer_state: "TrainerState | None" = None,
        log_metric: LogMetric | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        bounds = self._bounds(trainer_state)
        scores = [
            follows_layout(parsed, gold, self._syntax.name)
            for parsed, gold in self._parse(completions, solution, completion_ids)
        ]
        _log_means(log_metric, {"rest/reward/layout": scores})
        return [bounds.layout_max if score else bounds.layout_min for score in scores]


class _ToolCallReward(_RuleReward):
    __name__ = "tool_call_reward"

    def __call__(
        self,
        completions: Sequence[Completion],
        solution: Sequence[str],
        trainer_state: "TrainerState | None" = None,
        log_metric: LogMetric | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        bounds = self._bounds(trainer_state)
        equal = python_equal if self._schedule == "released" else json_equal
        rewards: list[float | None] = []
        scores: list[float] = []
        exact: list[bool] = []
        pairs = self._parse(completions, solution, completion_ids)
        for parsed, gold in pairs:
            if gold.errors:
                rewards.append(None)
                continue
            exact.append(is_exact(parsed, gold, equal))
            if not gold.calls:
                rewards.append(0.0)
            else:
                score = call_score(parsed.calls, gold.calls, equal)
                scores.append(score)
                rewards.append(bounds.correctness_min + (bounds.correctness_max - bounds.correctness_min) * score)
        _log_means(
            log_metric,
            {
                "rest/reward/correctness": scores,
                "rest/reward/exact": exact,
                "rest/reward/unparseable": [bool(parsed.errors) for parsed, _ in pairs],
                "rest/reward/unreadable_solution": [bool(gold.errors) for _, gold in pairs],
            },
        )
        return rewards


def _log_means(log_metric: LogMetric | None, values: dict[str, Sequence[float]]) -> None:
    if log_metric is None:
        return
    for name, items in values.items():
        if items:
            log_metric(name, sum(items) / len(items))


def get_layout_reward(
    tool_call_syntax: str = "rlla",
    schedule: str = "static",
    steps_per_rollout: int = 1,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> Callable[..., list[float]]:
    """
    Reward function for the structure of a completion: the greatest reward where [`follows_layout`], else the least.

    Logs `rest/reward/layout`, the share of completions that follow the format.

    Args:
        tool_call_syntax (`str`, *optional*, defaults to `"rlla"`):
            Syntax of the completions and of the column `solution`, see [`~rest_trl.tool_calls.get_syntax`].
        schedule (`str`, *optional*, defaults to `"static"`):
            Bounds of the reward over the training, see [`reward_bounds`].
        steps_per_rollout (`int`, *optional*, defaults to `1`):
            Optimiser steps that share their rollouts, `ResTGRPOConfig.steps_per_rollout`: the schedules count
            rollouts.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The policy's tokenizer: completions are then read from `completion_ids`. Needed where markers of the syntax
            are special tokens of it, because TRL drops these from the text.

    Returns:
        `Callable`: a TRL reward function `(completions, solution, trainer_state=None, log_metric=None, **kwargs)`,
        `solution` holding the gold completions. It raises a `ValueError` when the schedule needs a `trainer_state` and
        there is none, never because of what the policy wrote.

    Raises:
        ValueError: if there is no such syntax or schedule.

    Example:

    ```python
    >>> gold = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    >>> get_layout_reward("hermes")(completions=[gold, "I cannot."], solution=[gold, gold])
    [1.0, 0.0]

    ```
    """
    return _LayoutReward(tool_call_syntax, schedule, steps_per_rollout, tokenizer)


def get_tool_call_reward(
    tool_call_syntax: str = "rlla",
    schedule: str = "static",
    steps_per_rollout: int = 1,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> Callable[..., list[float | None]]:
    """
    Reward function for the calls of a completion: [`call_score`] scaled to the schedule's bounds.

    Calls that cannot be read, or none where the gold has some, get the minimum. Where the gold has no call, the reward
    is 0 for every completion, one with calls included: as in the released code, only the format is then rewarded. A
    solution whose calls cannot be read is bad data: its completions get `None`, which TRL leaves out, and a warning
    names it once. `"released"` compares argument values by Python's `==`, the other schedules by [`json_equal`].

    Logs `rest/reward/correctness`, the mean [`call_score`] where the gold has calls; `rest/reward/exact`, the share of
    completions with the gold's calls and no others (none, where the gold has none); `rest/reward/unparseable`, the
    share of completions with something that looks like a call and is none; `rest/reward/unreadable_solution`.

    Args:
        tool_call_syntax (`str`, *optional*, defaults to `"rlla"`):
            Syntax of the completions and of the column `solution`, see [`~rest_trl.tool_calls.get_syntax`].
        schedule (`str`, *optional*, defaults to `"static"`):
            Bounds of the reward over the training, see [`reward_bounds`].
        steps_per_rollout (`int`, *optional*, defaults to `1`):
            Optimiser steps that share their rollouts, `ResTGRPOConfig.steps_per_rollout`: the schedules count
            rollouts.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The policy's tokenizer: completions are then read from `completion_ids`. Needed where markers of the syntax
            are special tokens of it, because TRL drops these from the text.

    Returns:
        `Callable`: a TRL reward function, called and raising as that of [`get_layout_reward`].

    Raises:
        ValueError: if there is no such syntax or schedule.

    Example:

    ```python
    >>> gold = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    >>> get_tool_call_reward("hermes")(completions=[gold, gold.replace("1", "2"), ""], solution=[gold] * 3)
    [3.0, 1.0, -3.0]

    ```
    """
    return _ToolCallReward(tool_call_syntax, schedule, steps_per_rollout, tokenizer)


layout_reward = get_layout_reward()
tool_call_reward = get_tool_call_reward()
