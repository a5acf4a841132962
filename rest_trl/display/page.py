"""Completions with their regions in colour, in the terminal and as a page."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from ..regions.token_bytes import byte_table
from ..tool_calls import Region


STYLES: dict[Region, str] = {
    Region.NONE: "dim",
    Region.FORMAT: "cyan",
    Region.TOOL_NAME: "bold magenta",
    Region.PARAMETERS: "green",
    Region.REASONING: "yellow",
    Region.RESPONSE: "blue",
}

# Background colours of the page: dark text on each has a contrast of at least 7 (WCAG AAA).
_BACKGROUNDS: dict[Region, str] = {
    Region.NONE: "#eeeeee",
    Region.FORMAT: "#b3ecf2",
    Region.TOOL_NAME: "#f5b8e0",
    Region.PARAMETERS: "#bdebb5",
    Region.REASONING: "#fbeaa6",
    Region.RESPONSE: "#c3d4fb",
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.6 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1a1a1a; }}
pre {{ font: 13px/1.8 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; padding: 1rem;
  border: 1px solid #ccc; }}
.t {{ position: relative; cursor: default; }}
.t:hover {{ outline: 2px solid #1a1a1a; }}
.t:hover::after {{ content: attr(data-tip); position: absolute; left: 0; top: 1.7em; z-index: 1; padding: .2rem .5rem;
  background: #1a1a1a; color: #fff; border-radius: 3px; white-space: pre; font-size: 12px; }}
.legend span {{ padding: .1rem .5rem; margin-right: .5rem; border-radius: 3px; }}
{colors}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="legend">{legend}</p>
{completions}
</body>
</html>
"""


class Inspected(NamedTuple):
    """
    A completion to show.

    Args:
        title (`str`):
            Its heading.
        completion_ids (`list[int]` of length `T`):
            Token ids.
        region_ids (`list[int]` of length `T`):
            [`Region`] per token.
        coefficients (`list[float]` of length `T`):
            Coefficient per token.
        entropies (`list[float]` of length `T`, *optional*):
            Entropy per token in nats, if known.
    """

    title: str
    completion_ids: list[int]
    region_ids: list[int]
    coefficients: list[float]
    entropies: list[float] | None = None


def colored_completion(
    completion_ids: Sequence[int], region_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> Text:
    """
    A completion with the colour of its region on every token.

    Args:
        completion_ids (`Sequence[int]` of length `T`):
            Sampled token ids.
        region_ids (`Sequence[int]` of length `T`):
            [`Region`] per token.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.

    Returns:
        [`rich.text.Text`]
    """
    text = Text()
    start = 0
    for index in range(1, len(completion_ids) + 1):
        # Runs of a region are decoded together: a character can be split over tokens.
        if index == len(completion_ids) or region_ids[index] != region_ids[start]:
            run: Any = tokenizer.decode(list(completion_ids[start:index]))
            text.append(run, style=STYLES[Region(region_ids[start])])
            start = index
    return text


def legend() -> Text:
    """The regions in their colours."""
    return Text(" ").join(Text(region.name.lower(), style=STYLES[region]) for region in list(Region)[1:])


def html_page(title: str, completions: Sequence[Inspected], tokenizer: PreTrainedTokenizerBase) -> str:
    """
    One page that needs nothing else: every token in the colour of its region, and on hover token, id, region, entropy
    (if known) and coefficient.

    Args:
        title (`str`):
            Heading of the page.
        completions (`Sequence[Inspected]`):
            What to show.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.

    Returns:
        `str`
    """
    regions, table = list(Region), byte_table(tokenizer)
    return _PAGE.format(
        title=escape(title),
        colors="\n".join(f".r{region.value} {{ background: {_BACKGROUNDS[region]}; }}" for region in regions),
        legend="".join(f'<span class="r{region.value}">{region.name.lower()}</span>' for region in regions[1:]),
        completions="\n".join(
            f"<h2>{escape(item.title)}</h2>\n<pre>{_html_tokens(item, table)}</pre>" for item in completions
        ),
    )


def _html_tokens(item: Inspected, table: list[bytes]) -> str:
    # A character that is split over tokens is shown with the token that completes it.
    decode = getincrementaldecoder("utf-8")("replace").decode
    spans = []
    for index, (token_id, region_id) in enumerate(zip(item.completion_ids, item.region_ids, strict=True)):
        token = table[token_id] if token_id < len(table) else b""
        tip = (
            f"{token.decode('utf-8', 'backslashreplace')!r} (id {token_id})\nregion: {Region(region_id).name.lower()}"
        )
        if item.entropies is not None:
            tip += f"\nentropy: {item.entropies[index]:.4f} nats"
        tip += f"\ncoefficient: {item.coefficients[index]:.4f}"
        spans.append(f'<span class="t r{region_id}" data-tip="{escape(tip)}">{escape(decode(token))}</span>')
    return "".join(spans)
