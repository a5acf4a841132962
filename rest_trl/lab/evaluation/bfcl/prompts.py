"""BFCL's questions and histories, rendered with a model's own chat template."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from ....data.messages import REASONING_KEYS
from ....tool_calls import Part, ToolCall, get_syntax
from ..generation import Tokenizer
from .questions import Calls, encode, tool_schema


# A template raises a TemplateError to refuse a message, and the other errors where a value is not what it expects.
RENDERING_ERRORS = (TemplateError, TypeError, LookupError, ValueError, RecursionError)


class PromptRenderer:
    """Renders prompts with the model's chat template, and reads its completions in the syntax of that name."""

    def __init__(
        self, tokenizer: Tokenizer, tool_call_syntax: str, chat_template_kwargs: dict[str, Any] | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._syntax = get_syntax(tool_call_syntax)
        # Each completion is parsed twice: for its calls, and for the history once these have been executed.
        self._parse = lru_cache(maxsize=1024)(self._syntax.parse)
        self._kwargs = chat_template_kwargs or {}
        if tokenizer.chat_template is None and "chat_template" not in self._kwargs:
            raise ValueError(
                "the tokenizer has no chat template, with which BFCL's prompts are rendered: give one with "
                "--chat_template_kwargs '{\"chat_template\": ...}'"
            )
        self._reasoning_key: str | None = REASONING_KEYS[0]
        self.one_call_per_message = False

    def render(self, messages: list[dict[str, Any]], functions: Sequence[dict[str, Any]]) -> str:
        """
        Render a prompt, up to where the completion begins.

        A template that fails raises one of [`RENDERING_ERRORS`].
        """
        prompt: Any = self._tokenizer.apply_chat_template(
            messages,
            tools=[tool_schema(function) for function in functions] or None,  # type: ignore[arg-type]
            tokenize=False,
            add_generation_prompt=True,
            **self._kwargs,
        )
        return str(prompt)

    def check(self, sample: str, messages: list[dict[str, Any]], functions: Sequence[dict[str, Any]]) -> str:
        """Render the first prompt of a question; a `ValueError` with the cure if it does not show all functions."""
        try:
            prompt = self.render(messages, functions)
        except RENDERING_ERRORS as error:
            raise ValueError(
                f"the chat template cannot render {sample} ({type(error).__name__}: {error}): leave its category out "
                "of --categories, or give a template that can with --chat_template_kwargs '{\"chat_template\": ...}'"
            ) from error
        hidden = [function["name"] for function in functions if function["name"] not in prompt]
        if hidden:
            raise ValueError(
                f"the prompt of {sample} does not show the function {hidden[0]!r}: BFCL needs a model whose chat "
                "template has tools, or one that has with --chat_template_kwargs '{\"chat_template\": ...}'"
            )
        return prompt

    def check_dialogues(self) -> None:
        """
        Find out how the template must be given calls and their results in the history.

        A rendered probe shows whether it takes several calls per message, and under which key it looks for reasoning.
        A template that does not render them at all raises a `ValueError`.
        """
        parameters = {"type": "dict", "properties": {"key": {"type": "string"}}}
        functions = [{"name": "probe_function", "description": "", "parameters": parameters}]
        calls = [ToolCall("probe_function", {"key": f"probe value {number}"}) for number in (1, 2)]
        needed = [text for number in (1, 2) for text in (f"probe value {number}", f"probe result {number}")]
        user, reasons = {"role": "user", "content": "probe"}, []
        for one_call_per_message in (False, True):
            self.one_call_per_message = one_call_per_message
            history = [user, *self.with_results("", calls, needed[1::2]), *self.turn("probe"), user]
            try:
                prompt = self.render(history, functions)
            except RENDERING_ERRORS as error:
                reasons.append(f"{type(error).__name__}: {error}")
                continue
            lacking = [text for text in needed if text not in prompt]
            if not lacking:
                self._find_reasoning_key(history[:-2], functions)
                return
            reasons.append(f"{lacking[0]!r} is lost")
        raise ValueError(
            f"the chat template cannot render a history with calls and their results ({reasons[-1]}), which the "
            "multi_turn categories need: leave them out of --categories, or give a template that can with "
            "--chat_template_kwargs '{\"chat_template\": ...}'"
        )

    def _find_reasoning_key(self, history: list[dict[str, Any]], functions: Sequence[dict[str, Any]]) -> None:
        taken = []
        for key in REASONING_KEYS:
            thinking = [history[0], {**history[1], key: "probe reasoning"}, *history[2:]]
            try:
                prompt = self.render(thinking, functions)
            except RENDERING_ERRORS:  # the template refuses a message with this key
                continue
            if "probe reasoning" in prompt:
                self._reasoning_key = key
                return
            taken.append(key)
        self._reasoning_key = taken[0] if taken else None

    def read(self, text: str) -> Calls:
        """The calls in a completion; empty if there is none, `None` if one cannot be read."""
        parsed = self._parse(text)
        try:
            encode(parsed.calls)
        except (ValueError, RecursionError):  # a number too long or a list too deep to be written as JSON
            return None
        return None if parsed.errors else parsed.calls

    def turn(self, text: str) -> list[dict[str, Any]]:
        """A completion without calls as a message of the history. A call that could not be read stays in its text."""
        content, reasoning = self._content(text, readable=not self._parse(text).errors)
        return [self._assistant(content, reasoning)]

    def with_results(self, text: str, calls: Sequence[ToolCall], results: Sequence[str]) -> list[dict[str, Any]]:
        """A completion with calls, and the results of these, as messages of the history."""
        content, reasoning = self._content(text, readable=True)
        asked, answered = [], []
        for number, (call, result) in enumerate(zip(calls, results, strict=True)):
            id = f"call{number:05d}"  # Mistral's templates ask for nine letters or digits
            function = {"name": call.name, "arguments": call.arguments}
            asked.append({"id": id, "type": "function", "function": function})
            answered.append({"role": "tool", "tool_call_id": id, "name": call.name, "content": result})
        if not self.one_call_per_message:
            return [{**self._assistant(content, reasoning), "tool_calls": asked}, *answered]
        messages = []
        for call_entry, answer in zip(asked, answered, strict=True):
            messages += [{**self._assistant(content, reasoning), "tool_calls": [call_entry]}, answer]
            content = reasoning = ""
        return messages

    def _assistant(self, content: str, reasoning: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": content}
        # The template decides whether it shows the reasoning of earlier turns.
        return {**message, self._reasoning_key: reasoning} if reasoning and self._reasoning_key else message

    def _content(self, text: str, readable: bool) -> tuple[str, str]:
        """The text for the user and the reasoning in a completion."""
        parts = self._parse(text).parts
        reasoning = "".join(text[start:end] for start, end, part in parts if part is Part.REASONING)
        if readable:
            content = "".join(text[start:end] for start, end, part in parts if part is Part.RESPONSE)
        else:
            content = text[max((end for _, end, part in parts if part is Part.REASONING), default=0) :]
            if reasoning:
                marker = next((marker for marker in self._syntax.markers if content.startswith(marker)), "")
                content = content.removeprefix(marker)
        return content.strip(), reasoning.strip()
