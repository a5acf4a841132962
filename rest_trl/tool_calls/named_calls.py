"""JSON arguments after a tool name between tags: `deepseek_v3`, `deepseek_v31`, `kimi_k2`."""

import re
from typing import ClassVar

from .json_calls import decode_value, skip_blank, write_arguments_parts, write_json_arguments
from .markers import END_THINK, THINK, MarkerSyntax
from .parsed import STRUCTURE, TAG, TOOL_NAME, Draft, ToolCall
from .syntax import Evidence


class NamedCallSyntax(MarkerSyntax):
    """
    Calls that consist of a header with the tool's name, a JSON object of arguments and an end marker.

    `_header` matches as much of the header as was written. Its group `name` is the name, groups called `tag...` are
    markers, and `ready` matches when nothing is missing before the arguments.
    """

    end_call: ClassVar[str] = ""
    _header: ClassVar[re.Pattern[str]]
    _fence: ClassVar[str] = ""  # between the arguments and the end marker

    def _call(self, draft: Draft) -> None:
        """Parse a call; the draft stands after its opening marker."""
        text, parsed = draft.text, draft.parsed
        # Every piece of a header is optional, so the pattern always matches.
        header: re.Match[str] = self._header.match(text, draft.position)  # type: ignore[assignment]
        for group in header.re.groupindex:
            tag_or_structure = TAG if group.startswith("tag") else STRUCTURE
            draft.write(header.end(group), TOOL_NAME if group == "name" else tag_or_structure)
        start = skip_blank(text, draft.position)
        stop = -1
        if not parsed.errors:  # one unreadable call voids all, so the rest is only partitioned
            try:
                arguments, stop = self._arguments(text, start, header)
                parsed.calls.append(ToolCall(header["name"], arguments))
            except ValueError as error:
                parsed.errors.append(f"character {start}: {error}")
        if stop == -1:
            marker = self._any_marker.search(text, start)
            stop = marker.start() if marker else len(text)
            if header["ready"] is None or not text.startswith(("{", "[", '"'), start):
                brace = text.find("{", start, stop)
                if brace != -1:
                    start = brace
                elif header["ready"] is None:
                    start = stop
            draft.write(start, STRUCTURE)
            write_arguments_parts(draft, stop)
        else:
            draft.write(start, STRUCTURE)
            write_json_arguments(draft)
        draft.block("tool_call", closed=self._end(draft))

    def _arguments(self, text: str, start: int, header: re.Match[str]) -> tuple[dict, int]:
        if not header["name"]:
            raise ValueError("the call has no tool name")
        if header["ready"] is None:
            raise ValueError(f"no arguments where those of {header['name']!r} must stand")
        arguments, stop = decode_value(text, start)
        if not isinstance(arguments, dict):
            raise ValueError(
                f"the arguments of {header['name']!r} must be a JSON object, not {type(arguments).__name__}"
            )
        end = stop if self._fence else skip_blank(text, stop)
        if not text.startswith(self._fence + self.end_call, end):
            raise ValueError(f"no {self.end_call} after the arguments of {header['name']!r}")
        return arguments, stop

    def _end(self, draft: Draft) -> bool:
        """Write everything up to the end marker and the marker itself; returns whether there is one."""
        text = draft.text
        if not self.end_call:
            return text.startswith("}", draft.position - 1)
        marker = self._any_marker.search(text, draft.position)
        if not marker and not text[draft.position :].strip("\n`"):  # nothing but a fence that is cut off
            draft.write(len(text), STRUCTURE)
        if not marker or marker.group() != self.end_call:
            return False
        draft.write(marker.start(), STRUCTURE)
        draft.write(marker.end(), TAG)
        return True


class SectionSyntax(NamedCallSyntax):
    """A section that holds all calls of a completion. What looks like a call outside of it is an error."""

    section: ClassVar[str]
    end_section: ClassVar[str]
    call: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._call_ahead = re.compile(re.escape(cls.section) + r"\s*" + re.escape(cls.call))

    def _open(self, draft: Draft, marker: str) -> None:
        if marker == self.section:
            self._section(draft)
        elif marker == self.call:
            draft.parsed.errors.append(f"character {draft.position}: a call before {self.section}")
            self._call(draft)
        else:
            super()._open(draft, marker)

    def _section(self, draft: Draft) -> None:
        start, parsed = draft.position, draft.parsed
        found = len(parsed.calls) + len(parsed.errors)
        while marker := self._any_marker.search(draft.text, draft.position):
            self._plain_text(draft, marker.start())
            draft.write(marker.end(), TAG)
            if marker.group() == self.call:
                self._call(draft)
            elif marker.group() == self.end_section:
                break
        if found == len(parsed.calls) + len(parsed.errors):
            parsed.errors.append(f"character {start}: no call after {self.section}")


class DeepSeekV31Syntax(SectionSyntax):
    """
    Syntax of DeepSeek-V3.1 (vLLM parser `deepseek_v31`).

    ```text
    reasoning</think>text for the user<｜tool▁calls▁begin｜>
    <｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜>
    <｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
    ```

    (Three lines for legibility: there are no line breaks.) In thinking mode, the prompt opens the reasoning.
    """

    name = "deepseek_v31"
    section, end_section = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
    call, end_call = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
    markers = (THINK, END_THINK, section, end_section, call, end_call, "<｜tool▁sep｜>")
    evidence = (Evidence(("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>")),)
    vllm_parser = "deepseek_v31"
    _header = re.compile(r"(?P<name>[^\s<{]*)(?:(?P<tag><｜tool▁sep｜>)(?P<ready>))?")


class DeepSeekV3Syntax(SectionSyntax):
    """
    Syntax of DeepSeek-V3 and R1 (vLLM parser `deepseek_v3`): the arguments stand in a Markdown fence.

    ```text
    <think>
    reasoning
    </think>
    text for the user<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
    ```json
    {"city": "Oslo"}
    ```<｜tool▁call▁end｜>
    <｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time
    ```json
    {}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
    ```

    The prompt of R1 opens the reasoning. The only type of a call is `function`.
    """

    name = "deepseek_v3"
    section, end_section = DeepSeekV31Syntax.section, DeepSeekV31Syntax.end_section
    call, end_call = DeepSeekV31Syntax.call, DeepSeekV31Syntax.end_call
    markers = DeepSeekV31Syntax.markers
    evidence = (Evidence(("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "```json")),)
    vllm_parser = "deepseek_v3"
    _header = re.compile(
        r"(?:(?P<type>function)|(?P<other_type>[^\n<{]*))(?:(?P<tag><｜tool▁sep｜>)(?P<name>[^\s<{`]*)"
        r"(?P<fence>\n?`{0,3}(?:json)?\n?)(?(type)(?P<ready>(?<=\n```json\n))?))?"
    )
    _fence = "\n```"


class KimiK2Syntax(SectionSyntax):
    """
    Syntax of Kimi K2 (vLLM parser `kimi_k2`): the id of the call holds the tool's name and the call's number.

    ```text
    <think>reasoning</think>text for the user<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0
    <|tool_call_argument_begin|>{"city": "Oslo"}<|tool_call_end|><|tool_call_begin|>functions.get_time:1
    <|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>
    ```

    (Three lines for legibility: there are no line breaks.) The prompt of the thinking models opens the reasoning.
    """

    name = "kimi_k2"
    section, end_section = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
    call, end_call = "<|tool_call_begin|>", "<|tool_call_end|>"
    markers = (THINK, END_THINK, section, end_section, call, end_call, "<|tool_call_argument_begin|>")
    evidence = (Evidence(("<|tool_call_begin|>",), tokens=("<|tool_call_argument_begin|>",)),)
    vllm_parser = "kimi_k2"
    _header = re.compile(
        r"(?P<prefix>\s*(?:functions\.)?)(?P<name>[^\s:<{]*)(?P<index>:\d+)?"
        r"(?P<blank>\s*)(?:(?P<tag><\|tool_call_argument_begin\|>)(?(index)(?P<ready>)))?"
    )
