"""
Conformance table: completions of every syntax with the calls and regions that they must give.

A module `<syntax>.py` beside this file holds all that the tests know of one syntax, as `SYNTAX`. It is found by its
name; modules with a leading underscore are shared.
"""

import importlib
import pkgutil
from typing import Any, NamedTuple

from rest_trl.tool_calls import Region


Pieces = list[tuple[str, str]]

LETTERS = {
    "F": Region.FORMAT,
    "N": Region.TOOL_NAME,
    "P": Region.PARAMETERS,
    "R": Region.REASONING,
    "A": Region.RESPONSE,  # the answer
}


class VLLM(NamedTuple):
    """
    How a vLLM server reads a syntax.

    Args:
        parser (`str`, *optional*):
            The tool parser, by default the `vllm_parser` of the syntax.
        reasoning_parser (`str`, *optional*, defaults to `"deepseek_r1"`):
            What the server is started with for models that reason.
        extra_tokens (`tuple[str, ...]`, *optional*, defaults to `()`):
            Tokens that the parser asks its tokenizer for, beyond the markers of the syntax.
        missing_tokens (`tuple[str, ...]`, *optional*, defaults to `()`):
            Markers that the tokenizer of such a model does not have.
        harmony (`bool`, *optional*, defaults to `False`):
            Whether OpenAI's own encoding and message parser are used.
        fails (`str`, *optional*):
            Why vLLM does not find the calls although they are right.
    """

    parser: str | None = None
    reasoning_parser: str = "deepseek_r1"
    extra_tokens: tuple[str, ...] = ()
    missing_tokens: tuple[str, ...] = ()
    harmony: bool = False
    fails: str | None = None


class Case(NamedTuple):
    """
    A completion, given as pieces of `(text, letter of the region)`.

    `well_formed` says that a server would execute `calls`: vLLM's parser must find the same. `vllm` is given where it
    is to be set up otherwise than for the rest of the syntax.
    """

    title: str
    pieces: Pieces
    calls: list[tuple[str, dict[str, Any]]]
    well_formed: bool = True
    vllm: VLLM | None = None

    @property
    def text(self) -> str:
        return "".join(piece for piece, _ in self.pieces)

    @property
    def regions(self) -> list[Region]:
        """Region of every character."""
        return [LETTERS[letter] for piece, letter in self.pieces for _ in piece]


class Template(NamedTuple):
    """
    A chat template that TRL ships, by the name of its file without `.jinja`.

    It stands for its variant `_training` too, unless that is listed itself. `calls` is how many calls it can render in
    one turn, `takes_text` whether it wants the arguments as JSON text.
    """

    name: str
    calls: int = 2
    takes_text: bool = False


class SyntaxCases(NamedTuple):
    """
    What the tests know of a syntax.

    Args:
        cases (`list[Case]`):
            Its completions.
        templates (`tuple[Template, ...]`, *optional*, defaults to `()`):
            The chat templates of TRL that show it.
        ends_of_turn (`tuple[str, ...]`, *optional*, defaults to `()`):
            What these templates write after a turn.
        excerpt (`str`, *optional*):
            A line made up after what other chat templates of the syntax hold; it is needed where TRL ships none.
        tokens (`tuple[str, ...]`, *optional*, defaults to `()`):
            Added tokens that show the syntax where the template does not.
        vllm ([`VLLM`], *optional*):
            How vLLM reads it.
    """

    cases: list[Case]
    templates: tuple[Template, ...] = ()
    ends_of_turn: tuple[str, ...] = ()
    excerpt: str | None = None
    tokens: tuple[str, ...] = ()
    vllm: VLLM = VLLM()


def load_syntaxes() -> dict[str, SyntaxCases]:
    """The `SYNTAX` of every module beside this one, by the module's name, which is that of the syntax."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return {name: importlib.import_module(f"{__name__}.{name}").SYNTAX for name in names}
