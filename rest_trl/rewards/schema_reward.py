"""A reward for calls that fit the schemas of their tools, which needs no gold completion."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..tool_calls import ParsedCompletion
from .base import CallReward, LogMetric, TurnReader, log_means, log_nothing
from .reading import Completion
from .tool_schemas import FAULTS, UNREADABLE, Judgement, ToolSchemas, no_tools


class ToolSchemaReward(CallReward):
    """
    Reward for calls that fit the schemas of the tools; it needs no column `solution`.

    It is a penalty for every assistant turn, from -1 to 0. A turn with something that looks like a call and cannot be
    read gets -1, because nothing of it is executed. Any other turn gets the penalty of its worst call, so that further
    calls do not make up for it: -1 for a tool that does not exist, else minus the share of wrong parameters among
    those that are given or required. A parameter is wrong if it is required and missing, if the tool does not have it,
    or if the schema refuses its value. A turn without calls gets 0, as calls without a fault do, so this reward alone
    is no reason to call anything: give it beside one for what the calls achieve.

    A turn's penalty is known when the turn ends, so it is a turn reward: TRL gets the sum over the turns, and `credit`
    can credit each turn with its own penalty and those of later turns.

    The tools are those that the trainer shows in prompts, from `tools=` or the row's environment. If it has none, they
    are those of the row, in a column `tools` of JSON schemas. Where the syntax does not tell numbers from strings, a
    number is right if the string that it is written as is right.

    Logs the shares of completions with a fault: `rest/reward/unparseable`, `rest/reward/unknown_tool`,
    `rest/reward/missing_parameter`, `rest/reward/unknown_parameter`, `rest/reward/wrong_value`; and
    `rest/reward/valid`, the share without any.

    Args:
        tool_call_syntax (`str`, *optional*):
            Syntax of the calls, see [`~rest_trl.tool_calls.get_syntax`]. Only needed to call by hand.
        tools (`Sequence`, *optional*):
            Functions or JSON schemas, used instead of those of the trainer and the rows.

    Raises:
        ValueError: if there is no such syntax, or `tools` are no tools.

    Example:

    ```python
    >>> parameters = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    >>> reward = ToolSchemaReward("hermes", tools=[{"name": "f", "parameters": parameters}])
    >>> call = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    >>> reward(completions=[call, call.replace("1", '"1"'), "I cannot."])
    [[0.0], [-1.0], [0.0]]

    ```
    """

    __name__ = "tool_schema_reward"

    def __init__(
        self,
        tool_call_syntax: str | None = None,
        tools: Sequence[Callable[..., Any] | Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(tool_call_syntax)
        self.has_tools = tools is not None
        if tools is not None:
            self._tools = {None: ToolSchemas(tools)}

    def bind(
        self, tool_call_syntax: str, reader: TurnReader, tools: Mapping[str | None, ToolSchemas]
    ) -> "ToolSchemaReward":
        """
        A copy that belongs to a trainer, see [`RuleReward.bind`].

        `tools` are those of every environment by its name in the column `environment`, or by `None` if there are not
        several; none where rows have their own. A reward that was given tools keeps those instead.
        """
        bound = self._bound(tool_call_syntax, reader)
        bound._tools = self._tools or tools
        return bound

    def __call__(
        self,
        completions: Sequence[Completion],
        tools: Sequence[Any] | None = None,
        environment: Sequence[str] | None = None,
        log_metric: LogMetric | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> list[list[float]]:
        """
        The rewards of turns, as [`ResTGRPOTrainer`] asks for them; see [`RuleReward`] for the other arguments.

        Args:
            tools (`Sequence` of length `B`, *optional*):
                Column with the JSON schemas of each row's tools.
            environment (`Sequence[str]` of length `B`, *optional*):
                Column with the name of each row's environment.

        Returns:
            `list[list[float]]` of length `B`: a number in [-1, 0] per assistant turn.

        Raises:
            ValueError: if there are no tools, the syntax is not known, or a trainer calls a reward that nobody has
                bound to it; never because of what the policy wrote.
        """
        syntax = self.known_syntax()
        turns = self._turns(completions, completion_ids)
        schemas = self._schemas(len(turns), tools, environment)
        judged = [
            [_judge(turn, self._known(of_row), syntax.untyped) for turn in of_completion]
            for of_completion, of_row in zip(turns, schemas, strict=True)
        ]
        found = [frozenset().union(*(turn.faults for turn in of_completion)) for of_completion in judged]
        metrics: dict[str, Sequence[float]] = {f"rest/reward/{kind}": [kind in f for f in found] for kind in FAULTS}
        log_means(log_metric or log_nothing, {"rest/reward/valid": [not faults for faults in found], **metrics})
        return [[0.0 - turn.wrong for turn in of_completion] for of_completion in judged]

    def _known(self, tools: ToolSchemas | None) -> ToolSchemas:
        if tools is None:
            raise ValueError(no_tools(self.__name__))
        return tools


def _judge(turn: ParsedCompletion, schemas: ToolSchemas, untyped: bool) -> Judgement:
    if turn.errors:
        return Judgement(1.0, frozenset([UNREADABLE]))
    calls = [schemas.judge(call, untyped) for call in schemas.typed(turn).calls]
    return Judgement(
        max((call.wrong for call in calls), default=0.0), frozenset().union(*(call.faults for call in calls))
    )
