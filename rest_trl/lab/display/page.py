"""Completions with their regions and advantages in colour, as one HTML page that needs no other file."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from transformers import PreTrainedTokenizerBase

from ...regions.token_bytes import byte_table
from ...tool_calls import Region
from .colors import COLORS, TEXT_ON_DARK, TEXT_ON_LIGHT
from .described import Inspected, described_piece, has_turns, pieces_of, region_summary


_TEMPLATE = Path(__file__).with_name("page.html")


def html_page(
    title: str, items: Sequence[Inspected], tokenizer: PreTrainedTokenizerBase, notes: Sequence[str] = ()
) -> str:
    """
    Build the page: every token in the colour of its region or of its advantage, and the gold completions beside.

    On hover, a token shows its id, region, coefficient and advantage. Filters hide completions by step, region and
    whether they make the gold's calls. The page fits screens from 420 pixels of width and follows the dark mode of the
    reader. `notes` tell the reader where regions and coefficients come from.
    """
    regions, table = list(Region), byte_table(tokenizer)
    largest = max((abs(value) for item in items for value in item.advantages() or ()), default=0.0) or 1.0
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        text_on_light=TEXT_ON_LIGHT,
        text_on_dark=TEXT_ON_DARK,
        light="\n".join(f".r{region.value} {{ background: {COLORS[region].light}; }}" for region in regions),
        dark="\n".join(f".r{region.value} {{ background: {COLORS[region].dark}; }}" for region in regions),
        legend="".join(f'<li class="r{region.value}">{region.name.lower()}</li>' for region in regions[1:]),
        controls=_controls(items),
        notes="\n".join(f"<p>{escape(note)}</p>" for note in notes),
        completions="\n".join(_completion(item, table, largest) for item in items),
    )


def _controls(items: Sequence[Inspected]) -> str:
    """The choices that tell completions of this page apart."""
    choices = []
    if any(item.advantages() for item in items):
        choices.append(_choice("color", {"region": "colour: region", "advantage": "colour: advantage"}))
    if any(item.exact is not None for item in items):
        choices.append(_choice("exact", {"": "all calls", "no": "wrong calls", "yes": "exact calls"}))
    if {True, False} <= {item.has_gold_calls for item in items}:
        choices.append(_choice("gold", {"": "all golds", "calls": "golds with calls", "none": "golds without"}))
    steps = sorted({item.completion.step for item in items if item.completion.step is not None})
    if len(steps) > 1:
        choices.append(_choice("step", {"": "all steps", **{str(step): f"step {step}" for step in steps}}))
    found = {region_id for item in items for region_id in item.region_ids}
    names = {str(region.value): region.name.lower() for region in list(Region)[1:] if region.value in found}
    if len(names) > 1:
        choices.append(_choice("region", {"": "all regions", **names}))
    return "".join(choices)


def _choice(name: str, options: dict[str, str]) -> str:
    shown = "".join(f'<option value="{value}">{text}</option>' for value, text in options.items())
    return f'<select id="{name}" aria-label="{name}">{shown}</select>'


def _completion(item: Inspected, table: list[bytes], largest: float) -> str:
    completion = item.completion
    exact = {None: "", True: "yes", False: "no"}[item.exact]
    gold = {None: "", True: "calls", False: "none"}[item.has_gold_calls]
    step = "" if completion.step is None else completion.step
    regions = " ".join(map(str, sorted(set(item.region_ids))))
    parts = [f'<section data-exact="{exact}" data-gold="{gold}" data-step="{step}" data-regions="{regions}">']
    parts.append(f"<h2>{escape(completion.title)}</h2>")
    if completion.prompt is not None:
        parts.append(f"<details><summary>Prompt</summary><pre>{escape(completion.prompt)}</pre></details>")
    facts = [f"{escape(name)} {value:.3f}" for name, value in completion.scores.items()]
    if item.exact is not None:
        facts.append(f'<b class="{exact}">{item.verdict()}</b>')
    if facts:
        parts.append(f"<ul>{''.join(f'<li>{fact}</li>' for fact in facts)}</ul>")
    summary = "".join(f'<li class="r{region.value}">{text}</li>' for region, text in region_summary(item))
    parts.append(f'<ul class="regions">{summary}</ul>')
    tokens = _tokens(item, table, largest)
    if not has_turns(completion):
        sampled = f"<pre>{''.join(tokens)}</pre>"
        parts.append(sampled if item.gold_ids is None else _beside(sampled, item, table))
    for piece in pieces_of(completion) if has_turns(completion) else []:
        title = escape(described_piece(item, piece))
        text = "".join(tokens[piece.start : piece.stop])
        parts.append(f"<h3>{title}</h3><pre>{text}</pre>" if piece.turn is not None else _other(text))
    if has_turns(completion) and item.gold_ids is not None:
        parts.append(f"<h3>Gold</h3>{_gold(item, table)}")
    return "\n".join([*parts, "</section>"])


def _other(text: str) -> str:
    return f'<pre class="other">{text}</pre>'


def _beside(sampled: str, item: Inspected, table: list[bytes]) -> str:
    gold = f"<div><h3>Gold</h3>{_gold(item, table)}</div>"
    return f'<div class="beside"><div><h3>Sampled</h3>{sampled}</div>{gold}</div>'


def _gold(item: Inspected, table: list[bytes]) -> str:
    shown = zip(_texts(item.gold_ids or [], table), item.gold_region_ids or [], strict=True)
    spans = [f'<span class="r{region}">{text}</span>' for text, region in shown]
    return f"<pre>{''.join(spans)}</pre>"


def _texts(ids: Sequence[int], table: list[bytes]) -> list[str]:
    """
    Text of each token, escaped.

    A character that is split over tokens is shown with the token that completes it, or as a replacement character with
    the last token if none does.
    """
    decode = getincrementaldecoder("utf-8")("replace").decode
    tokens = [table[token_id] if token_id < len(table) else b"" for token_id in ids]
    return [escape(decode(token, final=place == len(tokens) - 1)) for place, token in enumerate(tokens)]


def _tokens(item: Inspected, table: list[bytes], largest: float) -> list[str]:
    ids, advantages = item.completion.completion_ids, item.advantages()
    spans = []
    for place, (token_id, region_id, text) in enumerate(zip(ids, item.region_ids, _texts(ids, table), strict=True)):
        token = table[token_id] if token_id < len(table) else b""
        tip = f"{token.decode('utf-8', 'backslashreplace')!r} (id {token_id})\n{Region(region_id).name.lower()}"
        if item.coefficients is not None:
            tip += f", coefficient: {item.coefficients[place]:.4f}"
        style = ""
        if advantages is not None:
            tip += f", advantage: {advantages[place]:.4f}"
            depth = round(70 * abs(advantages[place]) / largest)
            style = f' style="--depth: {depth}%; --sign: var(--{"more" if advantages[place] > 0 else "less"})"'
        spans.append(f'<span class="t r{region_id}"{style} data-tip="{escape(tip)}">{text}</span>')
    return spans
