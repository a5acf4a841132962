"""Completions with their regions in colour, as one HTML page that needs no other file."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from html import escape
from string import Template

from transformers import PreTrainedTokenizerBase

from ...regions.token_bytes import byte_table
from ...tool_calls import Region
from .colors import COLORS, TEXT_ON_DARK, TEXT_ON_LIGHT
from .completions import Inspected, region_summary
from .turns import described_piece, has_turns, pieces_of


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --text: $text_on_light; --page: #ffffff; --line: #c4c4c4; }
body { font: 15px/1.6 system-ui, sans-serif; margin: 2rem auto 7rem; max-width: 60rem; padding: 0 1rem;
  color: var(--text); background: var(--page); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.3; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
pre { font: 13px/1.8 ui-monospace, monospace; white-space: pre-wrap; padding: .75rem; margin: .75rem 0;
  border: 1px solid var(--line); border-radius: 4px; }
summary { cursor: pointer; }
ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: .5rem 0; }
ul.regions li { padding: 0 .5rem; border-radius: 3px; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
.other { opacity: .75; border-style: dashed; margin-left: 1.5rem; }
.t:hover { outline: 2px solid var(--text); }
.t:hover::after { content: attr(data-tip); position: fixed; left: 0; right: 0; bottom: 0; z-index: 1;
  padding: .5rem 1rem; background: var(--text); color: var(--page); font-size: 13px; white-space: pre-wrap; }
$light
@media (prefers-color-scheme: dark) {
:root { --text: $text_on_dark; --page: #161616; --line: #555555; }
$dark
}
</style>
</head>
<body>
<h1>$title</h1>
<ul class="regions">$legend</ul>
$notes
$completions
</body>
</html>
""")


def html_page(
    title: str, items: Sequence[Inspected], tokenizer: PreTrainedTokenizerBase, notes: Sequence[str] = ()
) -> str:
    """
    The page: every token in the colour of its region and, on hover, with its id, region and coefficient.

    It fits screens from 420 pixels of width and follows the dark mode of the reader.

    Args:
        title (`str`):
            Heading of the page.
        items (`Sequence[Inspected]`):
            What to show.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        notes (`Sequence[str]`, *optional*):
            What a reader must know of the regions and coefficients.

    Returns:
        `str`
    """
    regions, table = list(Region), byte_table(tokenizer)
    return _PAGE.substitute(
        title=escape(title),
        text_on_light=TEXT_ON_LIGHT,
        text_on_dark=TEXT_ON_DARK,
        light="\n".join(f".r{region.value} {{ background: {COLORS[region].light}; }}" for region in regions),
        dark="\n".join(f".r{region.value} {{ background: {COLORS[region].dark}; }}" for region in regions),
        legend="".join(f'<li class="r{region.value}">{region.name.lower()}</li>' for region in regions[1:]),
        notes="\n".join(f"<p>{escape(note)}</p>" for note in notes),
        completions="\n".join(_html_completion(item, table) for item in items),
    )


def _html_completion(item: Inspected, table: list[bytes]) -> str:
    completion = item.completion
    parts = [f"<h2>{escape(completion.title)}</h2>"]
    if completion.prompt is not None:
        parts.append(f"<details><summary>Prompt</summary><pre>{escape(completion.prompt)}</pre></details>")
    if completion.scores:
        scores = "".join(f"<li>{escape(name)} {value:.3f}</li>" for name, value in completion.scores.items())
        parts.append(f"<ul>{scores}</ul>")
    summary = "".join(f'<li class="r{region.value}">{text}</li>' for region, text in region_summary(item))
    parts.append(f'<ul class="regions">{summary}</ul>')
    tokens = _html_tokens(item, table)
    if not has_turns(completion):
        parts.append(f"<pre>{''.join(tokens)}</pre>")
    for piece in pieces_of(completion) if has_turns(completion) else []:
        of_policy = piece.turn is not None
        title = escape(described_piece(item, piece))
        text = "".join(tokens[piece.start : piece.stop])
        parts.append(f"<h3>{title}</h3><pre>{text}</pre>" if of_policy else f'<pre class="other">{text}</pre>')
    return "\n".join(parts)


def _html_tokens(item: Inspected, table: list[bytes]) -> list[str]:
    # A character that is split over tokens is shown with the token that completes it, or as a replacement character
    # with the last token if none does.
    decode = getincrementaldecoder("utf-8")("replace").decode
    spans = []
    last = len(item.region_ids) - 1
    for place, (token_id, region_id) in enumerate(zip(item.completion.completion_ids, item.region_ids, strict=True)):
        token = table[token_id] if token_id < len(table) else b""
        text = escape(decode(token, final=place == last))
        tip = f"{token.decode('utf-8', 'backslashreplace')!r} (id {token_id})\n{Region(region_id).name.lower()}"
        if item.coefficients is not None:
            tip += f", coefficient: {item.coefficients[place]:.4f}"
        if item.completion.advantages is not None:
            tip += f", advantage: {item.completion.advantages[place]:.4f}"
        spans.append(f'<span class="t r{region_id}" data-tip="{escape(tip)}">{text}</span>')
    return spans
