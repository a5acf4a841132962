"""Calls in Gemma's notation: `gemma4` and `functiongemma`."""

import re
from typing import Any, ClassVar

from .json_calls import as_declared, read_untyped, skip_blank
from .markers import END_THINK, THINK, MarkerSyntax
from .parsed import PARAMETER_NAME, PARAMETER_VALUE, STRUCTURE, TAG, TOOL_NAME, Draft, Part, ToolCall
from .syntax import Evidence


CHANNEL, END_CHANNEL = "<|channel>", "<channel|>"

# Far below Python's recursion limit, which comparing or printing deeper arguments would hit.
_MAX_DEPTH = 100
_NAME = re.compile(r"call:([\w.\-]+)")
_KEY = re.compile(r"[^:{}\[\],]*")
_BARE = re.compile(r"[^,}\]]*")
_SEPARATORS = re.compile(r"[\s,]*")


class _Arguments:
    """
    The arguments object whose opening brace is at `start`, read once from left to right up to the first error.

    Afterwards `values` are the arguments, `texts` the same before `3` is read as a number, `ends` tells where the
    parameters' names and what lies between them end, `position` is where reading ended, and `error` says why it ended
    early.
    """

    def __init__(self, text: str, start: int, end: int, quote: str, quotes_are_untyped: bool) -> None:
        self.text, self.end, self.quote, self.quotes_are_untyped = text, end, quote, quotes_are_untyped
        self.values: dict[str, Any] = {}
        self.ends: list[tuple[int, Part]] = []
        self.error = ""
        self.position = start + 1
        self.texts: dict[str, Any] = {}
        self._stack: list[tuple[Any, Any]] = [(self.values, self.texts)]
        try:
            while self._stack:
                self._step()
        except ValueError as error:
            self.error = str(error)

    def _step(self) -> None:
        """Read one value with its key, or a closing bracket."""
        container, texts = self._stack[-1]
        self._skip(_SEPARATORS)
        if self.text.startswith("}" if isinstance(container, dict) else "]", self.position):
            self.position += 1
            self._stack.pop()
            return
        key = self._key() if isinstance(container, dict) else ""
        value, text = self._value()
        if isinstance(container, dict):
            container[key], texts[key] = value, text
        else:
            container.append(value)
            texts.append(text)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        start = self.position
        self.position = pattern.match(self.text, start, self.end).end()  # type: ignore[union-attr]  # it may be empty
        if self.position == self.end:
            raise ValueError("cut off")
        return self.text[start : self.position]

    def _key(self) -> str:
        start = self.position
        try:
            raw = self._skip(_KEY)
        finally:
            key = self.text[start : self.position]
            bare = key.strip().removeprefix(self.quote).removesuffix(self.quote)
            if len(self._stack) == 1 and bare:
                name_start = start + key.index(bare)
                self.ends += (name_start, PARAMETER_VALUE), (name_start + len(bare), PARAMETER_NAME)
        if not raw.strip() or self.text[self.position] != ":":
            raise ValueError(f"no parameter name at character {start}")
        self.position += 1
        return bare

    def _value(self) -> tuple[Any, Any]:
        self.position = skip_blank(self.text, self.position)
        opening = self.text[self.position : self.end][:1]
        if self.text.startswith(self.quote, self.position, self.end):
            return self._string()
        if opening in ("{", "["):
            if len(self._stack) > _MAX_DEPTH:
                raise ValueError("nested too deeply")
            nested: tuple[Any, Any] = ({}, {}) if opening == "{" else ([], [])
            self._stack.append(nested)
            self.position += 1
            return nested
        start = self.position
        bare = self._skip(_BARE).strip()
        if not bare:
            raise ValueError(f"no value at character {start}")
        return read_untyped(bare), bare

    def _string(self) -> tuple[Any, str]:
        start = self.position + len(self.quote)
        stop = self.text.find(self.quote, start, self.end)
        if stop == -1:
            raise ValueError("cut off")
        self.position = stop + len(self.quote)
        string = self.text[start:stop]
        return (read_untyped(string) if self.quotes_are_untyped else string), string


class GemmaSyntax(MarkerSyntax):
    call: ClassVar[str]
    end_call: ClassVar[str]
    quote: ClassVar[str]
    quotes_are_untyped: ClassVar[bool]
    _call_end: ClassVar[re.Pattern[str]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        quote = re.escape(cls.quote)
        cls.argument_strings = f"{quote}.*?(?:{quote}|$)"
        cls._call_ahead = re.compile(rf"{re.escape(cls.call)}\s*call:")
        cls._call_end = re.compile(f"{re.escape(cls.call)}|{re.escape(cls.end_call)}")

    def _open(self, draft: Draft, marker: str) -> None:
        if marker == self.call:
            self._call(draft)
        else:
            super()._open(draft, marker)

    def read_value(self, text: str, schema: Any = None) -> Any:
        arguments = _Arguments(f"{{x:{text}}}", 0, len(text) + 4, self.quote, self.quotes_are_untyped)
        if arguments.error or "x" not in arguments.values:
            raise ValueError(arguments.error or "no value")
        if arguments.position < arguments.end or len(arguments.ends) > 2:
            raise ValueError("text after the value")
        return as_declared(arguments.values["x"], arguments.texts["x"], schema if self.untyped else None)

    def _call(self, draft: Draft) -> None:
        text, start = draft.text, draft.position
        # A call ends at the next tag even inside a string: tags are special tokens, which no string holds.
        ahead = self._call_end.search(text, start)
        end = ahead.start() if ahead else len(text)
        closed = ahead is not None and ahead.group() == self.end_call
        position = skip_blank(text, start)
        name = _NAME.match(text, position, end)
        if name:
            draft.write(name.start(1), STRUCTURE)
            draft.write(name.end(), TOOL_NAME)
        if name and text.startswith("{", name.end(), end):
            arguments = _Arguments(text, name.end(), end, self.quote, self.quotes_are_untyped)
            draft.write_all(arguments.ends)
            draft.write(end if arguments.error else arguments.position, PARAMETER_VALUE)
            error = arguments.error
            if not error and text[arguments.position : end].strip():
                error = "text after the arguments"
            elif not error and not closed:
                error = "cut off"
            if not error:
                draft.parsed.calls.append(ToolCall(name[1], arguments.values))
                if self.untyped:
                    draft.parsed.texts.append(arguments.texts)
        else:
            error = "no tool name" if name is None else "no arguments"
        if error:
            draft.parsed.errors.append(f"the call at character {start}: {error}")
        draft.write(end, STRUCTURE)
        if closed:
            draft.write(end + len(self.end_call), TAG)
        draft.block("tool_call", closed)


class Gemma4Syntax(GemmaSyntax):
    """
    Syntax of Gemma 4 (vLLM parser `gemma4`): a block per call, keys without quotes, strings between special tokens,
    reasoning in a channel.

    ```text
    <|channel>thought
    reasoning
    <channel|><|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:3}<tool_call|>
    ```

    Values that are not strings are untyped, see [`read_untyped`]. Text outside of the tags is the response.
    """

    name = "gemma4"
    call, end_call, quote = "<|tool_call>", "<tool_call|>", '<|"|>'
    quotes_are_untyped = False
    # The model ends its turn with the last marker, which asks for the result of the call.
    markers = (CHANNEL, END_CHANNEL, call, end_call, quote, "<|tool_response>")
    evidence = (Evidence(("<|tool_call>call:",), tokens=("<|tool_call>",)),)
    vllm_parser = "gemma4"
    think, end_think = CHANNEL, END_CHANNEL
    _thought = re.compile(r"thought\n?")

    def _open(self, draft: Draft, marker: str) -> None:
        if marker == CHANNEL:
            label = self._thought.match(draft.text, draft.position)
            draft.write(label.end() if label else draft.position, STRUCTURE)
        super()._open(draft, marker)


class FunctionGemmaSyntax(GemmaSyntax):
    """
    Syntax of FunctionGemma (vLLM parser `functiongemma`): a block per call, keys without quotes, strings between
    special tokens.

    ```text
    <start_function_call>call:get_weather{city:<escape>Oslo<escape>,days:3}<end_function_call>
    ```

    Values are untyped, see [`read_untyped`]: as in vLLM, even a delimited `3` is taken for a number.
    Values that are not delimited, which vLLM drops, are read, too. Text outside of the tags is the response.
    """

    name = "functiongemma"
    call, end_call, quote = "<start_function_call>", "<end_function_call>", "<escape>"
    quotes_are_untyped = True
    markers = (THINK, END_THINK, call, end_call, quote, "<start_function_response>")
    evidence = (Evidence(("<start_function_call>",), tokens=("<start_function_call>",)),)
    untyped = True
    vllm_parser = "functiongemma"
