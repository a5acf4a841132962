"""Wire syntaxes of tool calls: one parse serves rewards and regions."""

from .base import REGION_OF_PART, Block, ParsedCompletion, Part, Region, ToolCall, ToolCallSyntax
from .call_lists import GraniteSyntax, MistralSyntax, Phi4MiniSyntax
from .detect import detect_syntax
from .gemma import FunctionGemmaSyntax, Gemma4Syntax
from .harmony import OpenAISyntax
from .llama import Llama3JsonSyntax
from .named_calls import DeepSeekV3Syntax, DeepSeekV31Syntax, KimiK2Syntax
from .pythonic import LFM2Syntax, PythonicSyntax
from .tagged import Granite4Syntax, HermesSyntax, RLLASyntax
from .xml_syntaxes import GLM45Syntax, Qwen3CoderSyntax


__all__ = [
    "REGION_OF_PART",
    "SYNTAXES",
    "Block",
    "DeepSeekV3Syntax",
    "DeepSeekV31Syntax",
    "FunctionGemmaSyntax",
    "GLM45Syntax",
    "Gemma4Syntax",
    "Granite4Syntax",
    "GraniteSyntax",
    "HermesSyntax",
    "KimiK2Syntax",
    "LFM2Syntax",
    "Llama3JsonSyntax",
    "MistralSyntax",
    "OpenAISyntax",
    "ParsedCompletion",
    "Part",
    "Phi4MiniSyntax",
    "PythonicSyntax",
    "Qwen3CoderSyntax",
    "RLLASyntax",
    "Region",
    "ToolCall",
    "ToolCallSyntax",
    "detect_syntax",
    "get_syntax",
]

SYNTAXES: dict[str, type[ToolCallSyntax]] = {
    tool_call_syntax.name: tool_call_syntax
    for tool_call_syntax in (
        FunctionGemmaSyntax,
        GLM45Syntax,
        Gemma4Syntax,
        LFM2Syntax,
        PythonicSyntax,
        Qwen3CoderSyntax,
        DeepSeekV31Syntax,
        DeepSeekV3Syntax,
        Granite4Syntax,
        GraniteSyntax,
        HermesSyntax,
        KimiK2Syntax,
        Llama3JsonSyntax,
        MistralSyntax,
        OpenAISyntax,
        Phi4MiniSyntax,
        RLLASyntax,
    )
}


def get_syntax(name: str) -> ToolCallSyntax:
    """
    The tool-call syntax of that name.

    Args:
        name (`str`):
            One of `SYNTAXES`; where vLLM has a parser for the syntax, the name is that parser's.

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
    if name not in SYNTAXES:
        raise ValueError(f"unknown tool_call_syntax {name!r}: choose one of {', '.join(sorted(SYNTAXES))}")
    return SYNTAXES[name]()
