"""The base class of tool-call syntaxes, and how a syntax is found: by its name, or from a tokenizer."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ..spelling import did_you_mean
from .json_calls import decode_value
from .parsed import ParsedCompletion


if TYPE_CHECKING:  # parsing needs neither torch nor transformers
    from transformers import PreTrainedTokenizerBase


class Evidence(NamedTuple):
    """
    What shows [`detect_syntax`] that a model writes a syntax.

    The chat template is checked first. Only if it fits no syntax are the tokenizer's added tokens checked. Evidence
    that has all the strings of another syntax's evidence, and more, outranks that one, so a new syntax can be told
    from a similar one without a change to the latter.

    Args:
        template (`tuple[str, ...]`):
            Strings that all occur in the chat template.
        without (`tuple[str, ...]`, *optional*, defaults to `()`):
            Strings that must not occur in it, because they belong to another syntax with the same markers.
        tokens (`tuple[str, ...]`, *optional*, defaults to `()`):
            Tokens that the tokenizer must all have added. If they fit several syntaxes equally well, none is detected.
    """

    template: tuple[str, ...]
    without: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()


_SYNTAXES: dict[str, type["ToolCallSyntax"]] = {}
# The syntaxes by name: those of this package, and a user's own once their modules are imported.
SYNTAXES: Mapping[str, type["ToolCallSyntax"]] = MappingProxyType(_SYNTAXES)


class ToolCallSyntax(ABC):
    """
    A wire syntax: the text format in which a model writes its tool calls.

    A subclass that sets `name` is known to [`get_syntax`] as soon as its module is imported. A new syntax therefore
    takes one module: the class holds all that the rest of the package needs to know. `evidence` and `vllm_parser`
    describe one syntax only, so a subclass with a `name` of its own does not inherit them.

    Attributes:
        name (`str`):
            What the syntax is called.
        markers (`tuple[str, ...]`):
            The literal strings that the syntax is made of. Some may be special tokens of a tokenizer. Unlike other
            special tokens, these stay in the text that is parsed.
        evidence (`tuple[Evidence, ...]`, *optional*, defaults to `()`):
            What shows that a model writes this syntax; one [`Evidence`] is enough. Without any, the syntax must be
            named in the config.
        untyped (`bool`, *optional*, defaults to `False`):
            Whether the values do not tell a number from a string, so that `5` may stand for `"5"`.
        vllm_parser (`str`, *optional*):
            Name of vLLM's tool parser for the syntax, `None` if vLLM has none.
        argument_strings (`str`, *optional*):
            Regular expression of a string among the arguments, complete or cut off; by default a JSON string.
        name_end (`str`, *optional*, defaults to `":"`):
            The character that ends the name of a parameter.
        argument_tags (`tuple[str, ...]`, *optional*, defaults to `()`):
            The tags that open a name, end a name, end a value and end a call, in this order, if tags separate the
            parameters.
        call (`str`, *optional*, defaults to `""`):
            The marker that opens a call, if other markers may stand between a tool's name and its JSON arguments.
        think, end_think (`str`, *optional*, defaults to `""`):
            What opens and what closes reasoning at the start of a turn; empty where the syntax has no reasoning.
    """

    name: ClassVar[str]
    markers: ClassVar[tuple[str, ...]] = ()
    evidence: ClassVar[tuple[Evidence, ...]] = ()
    untyped: ClassVar[bool] = False
    vllm_parser: ClassVar[str | None] = None
    argument_strings: ClassVar[str] = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
    name_end: ClassVar[str] = ":"
    argument_tags: ClassVar[tuple[str, ...]] = ()
    call: ClassVar[str] = ""
    think: ClassVar[str] = ""
    end_think: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            return
        other = _SYNTAXES.get(cls.name)
        # A notebook cell that runs again, or a reloaded module, defines the same class again.
        if other and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"two tool-call syntaxes are named {cls.name!r}, {other.__module__}.{other.__qualname__} and "
                f"{cls.__module__}.{cls.__qualname__}: give one of them another name"
            )
        if "evidence" not in cls.__dict__:
            cls.evidence = ()
        if "vllm_parser" not in cls.__dict__:
            cls.vllm_parser = None
        _SYNTAXES[cls.name] = cls

    @abstractmethod
    def parse(self, text: str) -> ParsedCompletion:
        """
        Parse one assistant turn. Never raises: whatever cannot be read is named in `errors`.

        Args:
            text (`str`):
                The text of the turn, markers included, end-of-turn token excluded.

        Returns:
            [`ParsedCompletion`]
        """

    def arguments_after_name(self, text: str, position: int) -> int | None:
        """
        The position after what opens the arguments, if they open right after the tool's name, which ends at
        `position`. By default `None`, because JSON arguments open with a brace, which is part of them.
        """
        return None

    def read_value(self, text: str, schema: Any = None) -> Any:
        """
        Decode the text of one value, whose call need not be readable as a whole; by default as JSON. The value's JSON
        `schema` matters only where the syntax is `untyped`.

        Raises:
            ValueError: if it cannot be read.
        """
        text = text.strip(" \t\n\r")  # JSON knows no other white space
        value, stop = decode_value(text, 0)
        if stop < len(text):
            raise ValueError(f"text after the value: {text[stop:][:20]!r}")
        return value


def get_syntax(name: str) -> ToolCallSyntax:
    """
    The tool-call syntax of that name.

    Args:
        name (`str`):
            One of `SYNTAXES`, or the dotted path of a subclass of [`ToolCallSyntax`]. Where vLLM has a parser for a
            syntax of this package, the name is that parser's.

    Returns:
        [`ToolCallSyntax`]

    Raises:
        ValueError: if there is no such syntax.

    Example:

    ```python
    >>> parsed = get_syntax("hermes").parse('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>')
    >>> parsed.calls
    [ToolCall(name='f', arguments={'a': 1})]
    >>> [(start, end, region.name) for start, end, region in parsed.spans][:3]
    [(0, 21, 'FORMAT'), (21, 22, 'TOOL_NAME'), (22, 38, 'FORMAT')]

    ```
    """
    if name in _SYNTAXES:
        return _SYNTAXES[name]()
    if "." in name:
        return _import_syntax(name)()
    raise ValueError(
        f"unknown tool_call_syntax {name!r}: {did_you_mean(name, _SYNTAXES)}choose one of "
        f"{', '.join(sorted(_SYNTAXES))}, or give the dotted path of your own, e.g. my_package.my_module.MySyntax"
    )


def _import_syntax(path: str) -> type[ToolCallSyntax]:
    module, _, name = path.rpartition(".")
    try:
        syntax = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"tool_call_syntax={path!r} cannot be imported ({error}): give one of {', '.join(sorted(_SYNTAXES))} or "
            "the dotted path of a subclass of rest_trl.tool_calls.ToolCallSyntax"
        ) from error
    if not (isinstance(syntax, type) and issubclass(syntax, ToolCallSyntax)):
        raise ValueError(f"tool_call_syntax={path!r} is not a subclass of rest_trl.tool_calls.ToolCallSyntax")
    if _SYNTAXES.get(syntax.__dict__.get("name", "")) is not syntax:
        raise ValueError(f"tool_call_syntax={path!r} has no name: set the class attribute `name`")
    return syntax


def detect_syntax(tokenizer: "PreTrainedTokenizerBase") -> str:
    """
    Name of the tool-call syntax that the model of this tokenizer writes.

    The chat template decides; where it fits no syntax, the added tokens do. Each syntax is recognised by its
    [`evidence`](rest_trl.tool_calls.Evidence).

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.

    Returns:
        `str`: a name for [`~rest_trl.tool_calls.get_syntax`].

    Raises:
        ValueError: if neither the chat template nor the added tokens show exactly one syntax.
    """
    template = tokenizer.chat_template or ""
    if isinstance(template, dict):  # several templates by name; the one for tools shows the calls
        template = template.get("tool_use") or "\n".join(template.values())
    template = template.replace('\\"', '"')  # a template is source code, in which quotes may be escaped
    evidence = [(name, evidence) for name, syntax in SYNTAXES.items() for evidence in syntax.evidence]
    names = _most_specific(
        (name, set(piece.template))
        for name, piece in evidence
        if piece.template
        and all(marker in template for marker in piece.template)
        and not any(marker in template for marker in piece.without)
    )
    if not names:
        added = set(tokenizer.get_added_vocab())
        names = _most_specific(
            (name, set(piece.tokens)) for name, piece in evidence if piece.tokens and added.issuperset(piece.tokens)
        )
    if len(names) == 1:
        return names[0]
    if names:
        cause = f"the chat template or the added tokens fit several tool-call syntaxes ({', '.join(names)})"
    elif template:
        cause = "neither the chat template nor the added tokens show a known tool-call syntax"
    else:
        cause = "the tokenizer has no chat template, and its added tokens show no known tool-call syntax"
    raise ValueError(
        f"{cause}: set tool_call_syntax to the one that the model writes, one of {', '.join(sorted(SYNTAXES))}"
    )


def _most_specific(found: Iterable[tuple[str, set[str]]]) -> list[str]:
    """Names of the syntaxes that were found, except where another one was found by the same strings and more."""
    found = list(found)
    return sorted({name for name, strings in found if not any(strings < others for _, others in found)})
