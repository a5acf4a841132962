"""Calls written as tags around names and values: `qwen3_coder` (Qwen3-Coder, Qwen3.5) and `glm45` (GLM-4.5)."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from .json_calls import as_declared, read_untyped, skip_blank
from .markers import CALL, END_CALL, END_THINK, THINK, MarkerSyntax
from .parsed import PARAMETER_NAME, PARAMETER_VALUE, STRUCTURE, TAG, TOOL_NAME, Draft, Part, ToolCall
from .syntax import Evidence


FUNCTION, END_FUNCTION = "<function=", "</function>"
PARAMETER, END_PARAMETER = "<parameter=", "</parameter>"
KEY, END_KEY, VALUE, END_VALUE = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"

_OPENS_VALUE = re.compile(rf"^\s*{VALUE}")
_NAME = re.compile(r"[^\s<>{}()\[\]\"',:]+")


class _Step(NamedTuple):
    """What a tag does: `inside` is the part of the text after it up to the next tag, `None` where the call ends."""

    inside: Part | None
    is_proper: bool = True
    is_inside_call: bool = True  # false for a tag that opens or closes something else: the call was never closed


_END, _BROKEN_END = _Step(None), _Step(None, is_proper=False)
_CUT_OFF = _Step(None, is_proper=False, is_inside_call=False)
_Grammar = Mapping[tuple[Part, str], _Step]


def _tags(*tags: str) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, tags)))


class XMLSyntax(MarkerSyntax):
    """
    A tool name, then names and values of parameters, which the tags between them separate.

    `_grammar` says for each part of a call which tags count in it; all other tags are text there. A tag that comes too
    early is not proper: it makes the call an error, but the rest of the call still has its regions.
    """

    _tag: ClassVar[re.Pattern[str]]
    _grammar: ClassVar[_Grammar]
    # The white space that the syntax puts before and after a value.
    _margin: ClassVar[str]

    def _call(self, draft: Draft) -> bool:
        """Parse the call whose name starts at the draft's position; returns whether it was closed."""
        text, start = draft.text, draft.position
        error = ""
        name = ""
        key: str | None = None
        texts: dict[str, Any] = {}
        inside: Part | None = TOOL_NAME
        for tag in self._tag.finditer(text, start):
            step = self._grammar.get((inside, tag.group()))  # type: ignore[arg-type]  # the loop ends at none
            if step is None:
                continue
            if not step.is_proper:
                error = error or f"{tag.group()} at character {tag.start()} comes too early"
            content = text[draft.position : tag.start()]
            if inside is TOOL_NAME:
                name = self._name(draft, tag.start())
                if not name or name != content.strip():
                    error = error or "no tool name"
            elif inside is PARAMETER_NAME:
                draft.write(tag.start(), inside)
                if key is not None or not content.strip():
                    error = error or f"a parameter without name or value before character {tag.start()}"
                key = content.strip()
            elif inside is PARAMETER_VALUE:
                value = self._value(draft, tag.start())
                if key is None:
                    error = error or "a value without a parameter name"
                else:
                    texts[key], key = value, None
            elif content.strip():
                draft.write(tag.start(), STRUCTURE)
                error = error or f"text between the parameters at character {draft.position - len(content)}"
            if step.is_inside_call:
                draft.write(tag.start(), STRUCTURE)
                draft.write(tag.end(), TAG)
            inside = step.inside
            if inside is None:
                break
        else:
            error = error or "cut off"
            if inside is TOOL_NAME:
                self._name(draft, len(text))
            elif inside is PARAMETER_VALUE:
                self._value(draft, len(text))
            draft.write(len(text), inside or STRUCTURE)
        if not error and key is not None:
            error = f"no value of parameter {key!r}"
        if error:
            draft.parsed.errors.append(f"the call at character {start}: {error}")
        else:
            draft.parsed.calls.append(ToolCall(name, {key: read_untyped(text) for key, text in texts.items()}))
            draft.parsed.texts.append(texts)
        return inside is None

    def arguments_after_name(self, text: str, position: int) -> int:
        return position

    def read_value(self, text: str, schema: Any = None) -> Any:
        text = _OPENS_VALUE.sub("", text, count=1).removeprefix(self._margin).removesuffix(self._margin)
        return as_declared(read_untyped(text), text, schema)

    def _name(self, draft: Draft, end: int) -> str:
        draft.write(min(skip_blank(draft.text, draft.position), end), STRUCTURE)
        name = _NAME.match(draft.text, draft.position, end)
        if name:
            draft.write(name.end(), TOOL_NAME)
        draft.write(end, STRUCTURE)
        return name.group() if name else ""

    def _value(self, draft: Draft, end: int) -> str:
        """Write the value that ends at `end`, without the margin that the syntax puts around it."""
        value = draft.text[draft.position : end]
        if self._margin and value.startswith(self._margin):
            draft.write(draft.position + len(self._margin), STRUCTURE)
            value = value.removeprefix(self._margin)
        value = value.removesuffix(self._margin)
        draft.write(draft.position + len(value), PARAMETER_VALUE)
        draft.write(end, STRUCTURE)
        return value


class Qwen3CoderSyntax(XMLSyntax):
    """
    Syntax of Qwen3-Coder, Qwen3.5 and Nemotron 3 (vLLM parsers `qwen3_coder` and `qwen3_xml`): a block per call.

    ```text
    <tool_call>
    <function=get_weather>
    <parameter=city>
    Oslo
    </parameter>
    </function>
    </tool_call>
    ```

    Values are untyped, see [`read_untyped`]. Like vLLM, this accepts a function outside of a block, which the models
    tend to write, and several functions in one block. Text outside of the tags is the response.
    """

    name = "qwen3_coder"
    markers = (THINK, END_THINK, CALL, END_CALL, FUNCTION, END_FUNCTION, PARAMETER, END_PARAMETER)
    evidence = (Evidence(("<tool_call>", "<function=", "<parameter=")),)
    untyped = True
    vllm_parser = "qwen3_coder"
    _call_ahead = re.compile(rf"{CALL}\s*{FUNCTION}")
    _tag = _tags(CALL, END_CALL, FUNCTION, END_FUNCTION, PARAMETER, END_PARAMETER, ">")
    _margin = "\n"
    argument_tags = (PARAMETER, ">", END_PARAMETER, END_FUNCTION)
    _grammar = {
        (TOOL_NAME, ">"): _Step(STRUCTURE),
        (STRUCTURE, PARAMETER): _Step(PARAMETER_NAME),
        (PARAMETER_NAME, ">"): _Step(PARAMETER_VALUE),
        (PARAMETER_VALUE, END_PARAMETER): _Step(STRUCTURE),
        (STRUCTURE, END_FUNCTION): _END,
        (TOOL_NAME, PARAMETER): _Step(PARAMETER_NAME, is_proper=False),
        (PARAMETER_NAME, END_PARAMETER): _Step(STRUCTURE, is_proper=False),
        (PARAMETER_VALUE, PARAMETER): _Step(PARAMETER_NAME, is_proper=False),
        **{(part, END_FUNCTION): _BROKEN_END for part in (TOOL_NAME, PARAMETER_NAME, PARAMETER_VALUE)},
        **{(part, tag): _CUT_OFF for part in (TOOL_NAME, STRUCTURE) for tag in (CALL, END_CALL, FUNCTION)},
    }

    def _open(self, draft: Draft, marker: str) -> None:
        text = draft.text
        if marker == FUNCTION:
            draft.block("tool_call", self._call(draft))
        elif marker == CALL:
            position, has_function, closed = skip_blank(text, draft.position), False, False
            while text.startswith(FUNCTION, position):
                draft.write(position, STRUCTURE)
                draft.write(position + len(FUNCTION), TAG)
                self._call(draft)
                has_function = True
                position = skip_blank(text, draft.position)
            if not has_function:
                draft.parsed.errors.append(f"character {draft.position}: {CALL} without a {FUNCTION}")
                ahead = self._any_marker.search(text, position)
                position = ahead.start() if ahead else len(text)
            if text.startswith(END_CALL, position):
                draft.write(position, STRUCTURE)
                draft.write(position + len(END_CALL), TAG)
                closed = True
            elif not has_function:
                draft.write(position, STRUCTURE)
            draft.block("tool_call", closed)
        else:
            super()._open(draft, marker)


class GLM45Syntax(XMLSyntax):
    """
    Syntax of GLM-4.5 to GLM-4.7 (vLLM parsers `glm45` and `glm47`): a block per call; the line breaks are optional.

    ```text
    <tool_call>get_weather
    <arg_key>city</arg_key>
    <arg_value>Oslo</arg_value>
    </tool_call>
    ```

    Values are untyped, see [`read_untyped`]. Text outside of the tags is the response.
    """

    name = "glm45"
    markers = (THINK, END_THINK, CALL, END_CALL, KEY, END_KEY, VALUE, END_VALUE)
    evidence = (Evidence(("<tool_call>", "<arg_key>", "<arg_value>"), tokens=("<arg_key>", "<arg_value>")),)
    untyped = True
    vllm_parser = "glm45"
    _call_ahead = re.compile(rf"{CALL}\s*[^\s<{{]+\s*(?:{KEY}|{END_CALL})")
    _tag = _tags(CALL, END_CALL, KEY, END_KEY, VALUE, END_VALUE)
    _margin = ""
    argument_tags = (KEY, END_KEY, END_VALUE, END_CALL)
    _grammar = {
        (TOOL_NAME, KEY): _Step(PARAMETER_NAME),
        (PARAMETER_NAME, END_KEY): _Step(STRUCTURE),
        (STRUCTURE, VALUE): _Step(PARAMETER_VALUE),
        (PARAMETER_VALUE, END_VALUE): _Step(STRUCTURE),
        (STRUCTURE, KEY): _Step(PARAMETER_NAME),
        (TOOL_NAME, END_CALL): _END,
        (STRUCTURE, END_CALL): _END,
        (TOOL_NAME, VALUE): _Step(PARAMETER_VALUE, is_proper=False),
        (PARAMETER_NAME, VALUE): _Step(PARAMETER_VALUE, is_proper=False),
        (PARAMETER_VALUE, KEY): _Step(PARAMETER_NAME, is_proper=False),
        (PARAMETER_NAME, END_CALL): _BROKEN_END,
        (PARAMETER_VALUE, END_CALL): _BROKEN_END,
        **{(part, CALL): _CUT_OFF for part in (TOOL_NAME, STRUCTURE, PARAMETER_NAME)},
    }

    def _open(self, draft: Draft, marker: str) -> None:
        if marker == CALL:
            draft.block("tool_call", self._call(draft))
        else:
            super()._open(draft, marker)
