"""Steps rendered with the model's chat template."""

import copy
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..tool_calls import Part, ToolCallSyntax, detect_syntax, get_syntax
from .messages import REASONING_KEYS, MalformedRowError, Message, Step


# Some templates write a call alone and leave out the text beside it. The gold then stays what the model should write
# in that template, so that this is noted and not refused.
LOST_TEXT_NOTE = "gold without all text of its turn: the chat template does not render the rest"
_THINK_TAG = re.compile("</?think>")
_OF_CALLS = (Part.TOOL_NAME, Part.PARAMETER_NAME, Part.PARAMETER_VALUE)
_CONSTANTS = {"True": True, "False": False, "None": None}
_MAX_CHECKED = 1024  # turns of histories that are known to be rendered


class StepRenderer:
    """Renders a step as two texts: the one that the model reads, and the one that it should write."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template_kwargs: dict[str, Any] | None = None):
        self.tokenizer = tokenizer
        self.chat_template_kwargs = chat_template_kwargs or {}
        self._written: dict[str, str] = {}

    def render(self, step: Step) -> tuple[str, str]:
        """
        The prompt, which ends with the generation prompt, and the solution, which is what the template writes for the
        turn after that prompt, without the end-of-turn marker.

        What the template writes for the calls of the turn and of the history is parsed and compared with them, because
        templates silently drop what they do not know.
        """
        if isinstance(step.history, str):
            prompt, solution = step.history, cast(str, step.turn)
        elif not step.history:
            raise MalformedRowError("nothing comes before the assistant turn")
        else:
            history = [self._with_known_reasoning(message) for message in step.history]
            prompt = self._apply_template(history, step.tools, add_generation_prompt=True)
            self._check_history(prompt, history, step.tools)
            if isinstance(step.turn, str):
                solution = step.turn
            else:
                solution = self._render_turn(prompt, history, self._with_known_reasoning(step.turn), step.tools)
        for text, label in ((prompt, "prompt"), (solution, "solution")):
            if not text.strip():
                raise MalformedRowError(f"the {label} is empty")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise MalformedRowError(f"the {label} is not valid Unicode ({error.reason})") from error
        for tool in step.tools or []:
            name = tool.get("function", tool)["name"]
            if not _shows(prompt, name):
                raise MalformedRowError(f"the prompt does not show the tool {name!r}: use a chat template with tools")
        return prompt.removeprefix(self._added_bos_token), solution

    def _render_turn(
        self, prompt: str, history: list[Message], turn: Message, tools: list[dict[str, Any]] | None
    ) -> str:
        rendered = self._apply_template([*history, turn], tools, add_generation_prompt=False)
        if not rendered.startswith(prompt):
            raise MalformedRowError(
                "the chat template does not render the turn after its own generation prompt, as templates that drop "
                "or rewrite <think> do: use another chat template, or give prompt and solution as text"
            )
        solution = rendered.removeprefix(prompt).removesuffix(self._end_of_turn)
        self._check_calls(turn, solution)
        for key in REASONING_KEYS:
            if key in turn and str(turn[key]).strip() not in solution:
                raise MalformedRowError(f"the chat template does not render {key}: move it into content, or remove it")
        return solution

    def _check_history(self, prompt: str, history: list[Message], tools: list[dict[str, Any]] | None) -> None:
        """Refuse a prompt without a call of its history: the results of the call would stay."""
        position = 0
        for index, message in enumerate(history):
            if not message.get("tool_calls") or not index:  # what comes before the first message cannot be told apart
                continue
            key = json.dumps([history[: index + 1], tools], default=str)
            if key not in self._written:
                if len(self._written) >= _MAX_CHECKED:
                    self._written.clear()
                self._written[key] = self._render_calls(history[: index + 1], tools)
            found = prompt.find(self._written[key], position)
            if found < 0:
                raise MalformedRowError(
                    f"the chat template does not render the calls of message {index} in the prompt"
                )
            position = found + len(self._written[key])

    def _render_calls(self, messages: list[Message], tools: list[dict[str, Any]] | None) -> str:
        """What the template writes for the calls of the last message."""
        rendered = self._apply_template(messages, tools, add_generation_prompt=False)
        before = self._apply_template(messages[:-1], tools, add_generation_prompt=True)
        if not rendered.startswith(before):  # as where the generation prompt opens a reasoning that the turn lacks
            before = self._apply_template(messages[:-1], tools, add_generation_prompt=False)
        start = next((i for i, (a, b) in enumerate(zip(before, rendered, strict=False)) if a != b), len(before))
        written = rendered[start:].removesuffix(self._end_of_turn)
        return self._check_calls(messages[-1], written, may_have_earlier=start < len(before))

    def _check_calls(self, turn: Message, written: str, may_have_earlier: bool = False) -> str:
        """Compare the calls of a turn with those that are read in what was written for it; return their text."""
        meant = [call["function"] for call in turn.get("tool_calls", [])]
        if self._syntax is None:  # the template shows no syntax that is known, and most likely no calls
            for call in meant:
                if not all(_shows(written, text) for text in (call["name"], *_scalars(call["arguments"]))):
                    raise MalformedRowError(
                        f"the chat template does not render the call of {call['name']!r}: use one with tool calls"
                    )
            return ""
        parsed = self._syntax.parse(written) if meant else None
        if parsed is None:
            return ""
        given = [(call["name"], _comparable(call["arguments"], self._syntax.untyped)) for call in meant]
        found = [(call.name, _comparable(call.arguments, self._syntax.untyped)) for call in parsed.calls]
        if may_have_earlier:  # the template has changed earlier turns, too
            found = found[-len(given) :]
        if given != found:
            raise MalformedRowError(_difference(given, found, parsed.errors, self._syntax.name))
        places = [(start, end) for start, end, part in parsed.parts if part in _OF_CALLS]
        return written[places[0][0] : places[-1][1]]

    def _with_known_reasoning(self, message: Message) -> Message:
        """The message with its reasoning under a key that the template reads, if it does not read the given one."""
        given = next((key for key in REASONING_KEYS if key in message), None)
        if given is None or given in self._reasoning_keys or not self._reasoning_keys:
            return message
        return {(self._reasoning_keys[0] if key == given else key): value for key, value in message.items()}

    @cached_property
    def _templated(self) -> PreTrainedTokenizerBase:
        """The tokenizer with the template that renders."""
        if "chat_template" not in self.chat_template_kwargs:
            return self.tokenizer
        templated = copy.copy(self.tokenizer)
        templated.chat_template = self.chat_template_kwargs["chat_template"]
        return templated

    @cached_property
    def _syntax(self) -> ToolCallSyntax | None:
        """The syntax in which the template writes calls; `None` if it is not known."""
        try:
            return get_syntax(detect_syntax(self._templated))
        except ValueError:
            return None

    @cached_property
    def _reasoning_keys(self) -> list[str]:
        template = str(self._templated.chat_template)
        return [key for key in REASONING_KEYS if re.search(rf"\.{key}\b|['\"]{key}['\"]", template)]

    def _apply_template(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, add_generation_prompt: bool
    ) -> str:
        if self._templated.chat_template is None:
            raise ValueError(
                "The tokenizer has no chat template, and the data set holds messages to be rendered with it. Use an "
                "instruction-tuned model, set `tokenizer.chat_template`, or give prompt and solution as text."
            )
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages,
                tools=cast(Any, tools),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.chat_template_kwargs,
            )
        # A template raises a TemplateError to refuse a message. The others come from values that it does not expect.
        except (TemplateError, TypeError, LookupError) as error:
            raise MalformedRowError(f"the chat template raises {type(error).__name__}: {error}") from error
        return cast(str, rendered)  # because of `tokenize=False`

    @cached_property
    def _end_of_turn(self) -> str:
        """What the template writes after an assistant turn. It need not be the tokenizer's end-of-sequence token."""
        probe = "rest-trl-probe"
        messages = [{"role": "user", "content": "."}, {"role": "assistant", "content": probe}]
        return self._apply_template(messages, None, add_generation_prompt=False).rpartition(probe)[2]

    @cached_property
    def _added_bos_token(self) -> str:
        """The token that the tokenizer puts before every text. A prompt must not start with it, or it comes twice."""
        bos_token = self.tokenizer.bos_token
        if bos_token is None or self.tokenizer(".")["input_ids"][0] != self.tokenizer.bos_token_id:
            return ""
        return bos_token


def loses_text(turn: str | Message, solution: str) -> bool:
    """Whether a solution lacks content of its turn other than whitespace and the tags of `<think>`."""
    if isinstance(turn, str):
        return False
    written = "".join(solution.split())
    return any("".join(part.split()) not in written for part in _THINK_TAG.split(turn["content"]))


def _shows(text: str, name: str) -> bool:
    forms = {name, json.dumps(name)[1:-1], json.dumps(name, ensure_ascii=False)[1:-1]}
    return any(re.search(rf"(?<!\w){re.escape(form)}(?!\w)", text) for form in forms)


def _scalars(value: Any) -> Iterable[str]:
    """The names and the values of arguments as they may be written; those with several spellings are left out."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _scalars(item)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


def _comparable(value: Any, untyped: bool) -> str:
    """A text that equal JSON values share; without types `"5"` is 5, and whitespace around a string does not count."""
    return json.dumps(_untyped(value) if untyped else value, sort_keys=True, default=str)


def _untyped(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return _CONSTANTS.get(text, text)
    if isinstance(value, dict):
        return {key: _untyped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_untyped(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _difference(
    given: Sequence[tuple[str, str]], found: Sequence[tuple[str, str]], errors: Sequence[str], syntax: str
) -> str:
    """Why a turn is refused whose calls are not those that can be read in its text."""
    if errors:
        return f"what the chat template writes for the calls cannot be read as {syntax} ({errors[0]})"
    if len(given) != len(found):
        return (
            f"the chat template renders {len(found)} of {len(given)} calls ({', '.join(name for name, _ in given)}): "
            "use one that renders them all, or give each turn as many calls as it renders"
        )
    (name, meant), (read_name, read) = next(pair for pair in zip(given, found, strict=True) if pair[0] != pair[1])
    return f"the chat template renders the call {name}({meant}) as {read_name}({read}): use another chat template"
