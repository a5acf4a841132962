"""Dialogues of a policy with a TRL environment, run as in TRL's own loop of tool calls."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...tool_calls import ToolCallSyntax


# Public methods that are no tools: TRL and this package call them, the model does not.
_NO_TOOLS = ("reset", "get_reward", "turn_rewards")
_OF_NOBODY = {"role": "user", "content": "?"}
_SIGN = "here-ends-a-call"


def tools_of(environment: Any) -> dict[str, Callable[..., Any]]:
    """
    The tools of an environment, in the order in which TRL offers them.

    Args:
        environment:
            An environment of TRL.

    Returns:
        `dict[str, Callable]`: its public methods by name, without those that only TRL and this package call.

    Raises:
        ValueError: if one of them is asynchronous.
    """
    found = {}
    for name, function in inspect.getmembers(type(environment), predicate=inspect.isfunction):
        if name not in _NO_TOOLS and not name.startswith("_"):
            if inspect.iscoroutinefunction(function):
                raise ValueError(f"{type(environment).__name__}.{name} is asynchronous: evaluate with a plain method")
            found[name] = getattr(environment, name)
    return found


class Dialogue:
    """
    One dialogue.

    As in TRL's loop, the sampled text stays as it is, and the results of its calls are appended as the chat template
    renders them. A turn that has no call, has one that cannot be read, or was cut off is the last one.

    Args:
        environment:
            An environment of TRL, which is reset for the dialogue.
        row (`Mapping[str, Any]`):
            The row of the data set. It goes to `reset`, and its `prompt` is a list of messages.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer, with its chat template.
        syntax ([`~rest_trl.tool_calls.ToolCallSyntax`]):
            Wire syntax of the policy's calls.
        chat_template_kwargs (`Mapping[str, Any]`, *optional*):
            Further arguments of the chat template.

    Attributes:
        prompt (`str`):
            What is to be completed next.
        calls (`list[list[dict[str, Any]]]`):
            The calls of every turn.
        invalid (`int`):
            Calls that could not be read or carried out.
    """

    def __init__(
        self,
        environment: Any,
        row: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        syntax: ToolCallSyntax,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.environment = environment
        self._tokenizer, self._syntax = tokenizer, syntax
        self._kwargs = dict(chat_template_kwargs or {})
        self._tools = tools_of(environment)
        messages = [dict(message) for message in row["prompt"]]
        observation = environment.reset(**row)
        if observation is not None:
            if not isinstance(observation, str):
                raise ValueError(f"{type(environment).__name__}.reset gave images, which are not evaluated yet")
            messages[-1]["content"] += observation
        self.prompt = self._render(messages, tools=list(self._tools.values()) or None, add_generation_prompt=True)
        self.calls: list[list[dict[str, Any]]] = []
        self.invalid = 0

    def take(self, text: str, is_cut_off: bool = False) -> bool:
        """
        Carry out the calls of a turn.

        Args:
            text (`str`):
                The sampled text, without the token that ends the turn.
            is_cut_off (`bool`, *optional*, defaults to `False`):
                Whether the turn was cut off.

        Returns:
            `bool`: whether the dialogue goes on, with the new [`prompt`](Dialogue).
        """
        parsed = self._syntax.parse(text)
        self.calls.append([{"name": call.name, "arguments": call.arguments} for call in parsed.calls])
        self.invalid += len(parsed.errors)
        if parsed.errors or not parsed.calls or is_cut_off:
            return False
        results = [self._carry_out(call.name, call.arguments) for call in parsed.calls]
        self.prompt += text + self._render_results(results)
        return True

    def _carry_out(self, name: str, arguments: Any) -> dict[str, str]:
        try:
            if name not in self._tools:
                raise ValueError(f"Tool {name} not found.")
            result: Any = self._tools[name](**arguments)
        except Exception as error:  # whatever a tool raises is a result, as in TRL's loop
            self.invalid += 1
            result = {"error": str(error)}
        return {"role": "tool", "name": name, "content": str(result)}

    def _render_results(self, results: Sequence[dict[str, str]]) -> str:
        """The end of the turn, the results, and the opened next turn, as the chat template renders them."""
        # Only the text behind the call is used, so it does not matter how the template renders earlier turns.
        call = {"type": "function", "function": {"name": results[0]["name"], "arguments": {"sign": _SIGN}}}
        turn = {"role": "assistant", "content": "", "tool_calls": [call]}
        rendered = self._render([_OF_NOBODY, turn, *results], add_generation_prompt=True)
        end: Any = self._tokenizer.eos_token
        start = rendered.find(end, rendered.index(_SIGN)) if end and _SIGN in rendered else -1
        if start < 0:
            raise ValueError(
                f"the chat template does not end a turn of calls with the token {end!r}, so it is not known what "
                "comes between a call and its result: give a tokenizer whose eos_token ends a turn"
            )
        return rendered[start:]

    def _render(self, messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> str:
        conversation: Any = list(messages)
        rendered: Any = self._tokenizer.apply_chat_template(conversation, tokenize=False, **kwargs, **self._kwargs)
        return str(rendered)
