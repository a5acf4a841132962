"""Steps rendered with the model's chat template."""

import json
import re
from functools import cached_property
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from .messages import MalformedRowError, Message, Step


# Keys under which data sets keep the reasoning apart from the content.
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")

# Some templates write a call alone and leave out the text beside it. The gold then stays what the model should write
# in that template, so that this is noted and not refused.
LOST_TEXT_NOTE = "gold without all text of its turn: the chat template does not render the rest"
_THINK_TAG = re.compile("</?think>")


class StepRenderer:
    """Renders a step as two texts: the one that the model reads, and the one that it should write."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template_kwargs: dict[str, Any] | None = None):
        self.tokenizer = tokenizer
        self.chat_template_kwargs = chat_template_kwargs or {}

    def render(self, step: Step) -> tuple[str, str]:
        """Render one step."""
        if isinstance(step.history, str):
            prompt, solution = step.history, cast(str, step.turn)
        elif not step.history:
            raise MalformedRowError("nothing comes before the assistant turn")
        else:
            prompt = self._apply_template(step.history, step.tools, add_generation_prompt=True)
            if isinstance(step.turn, str):
                solution = step.turn
            else:
                solution = self._render_turn(prompt, [*step.history, step.turn], step.tools)
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

    def _render_turn(self, prompt: str, messages: list[Message], tools: list[dict[str, Any]] | None) -> str:
        rendered = self._apply_template(messages, tools, add_generation_prompt=False)
        if not rendered.startswith(prompt):
            raise MalformedRowError(
                "the chat template does not render the turn after its own generation prompt, as templates that drop "
                "or rewrite <think> do: use another chat template, or give prompt and solution as text"
            )
        solution = rendered.removeprefix(prompt).removesuffix(self._end_of_turn)
        _check_nothing_lost(messages[-1], solution)
        return solution

    def _apply_template(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, add_generation_prompt: bool
    ) -> str:
        if self.tokenizer.chat_template is None and "chat_template" not in self.chat_template_kwargs:
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
    """Tell whether a solution lacks some of the content of its turn."""
    if isinstance(turn, str):
        return False
    written = "".join(solution.split())
    return any("".join(part.split()) not in written for part in _THINK_TAG.split(turn["content"]))


def _shows(text: str, name: str) -> bool:
    return any(form in text for form in (name, json.dumps(name)[1:-1], json.dumps(name, ensure_ascii=False)[1:-1]))


def _check_nothing_lost(turn: Message, solution: str) -> None:
    """Refuse a solution without a call or the reasoning of its turn: templates silently drop what they do not know."""
    for call in turn.get("tool_calls", []):
        if not _shows(solution, call["function"]["name"]):
            raise MalformedRowError(
                f"the chat template does not render the call of {call['function']['name']!r}: use one with tool calls"
            )
    for key in REASONING_KEYS:
        if key in turn and str(turn[key]).strip() not in solution:
            raise MalformedRowError(f"the chat template does not render {key}: move it into content, or remove it")
