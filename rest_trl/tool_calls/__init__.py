"""
The text syntaxes in which models write tool calls, and their parsers: one parse serves rewards and regions.

Every module of this package is imported here, so that a new module registers its syntaxes without a list to edit.
"""

from importlib import import_module
from pkgutil import iter_modules

from .parsed import REGION_OF_PART, Block, ParsedCompletion, Part, Region, ToolCall, was_cut
from .syntax import SYNTAXES, Evidence, ToolCallSyntax, detect_syntax, get_syntax


__all__ = [
    "REGION_OF_PART",
    "SYNTAXES",
    "Block",
    "Evidence",
    "ParsedCompletion",
    "Part",
    "Region",
    "ToolCall",
    "ToolCallSyntax",
    "detect_syntax",
    "get_syntax",
    "was_cut",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
