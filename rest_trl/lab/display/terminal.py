"""Completions with their regions in colour, in the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from ...tool_calls import Region
from .colors import COLORS
from .described import Inspected, described_piece, has_turns, pieces_of, region_summary


_PROMPT_END = 600  # characters: a prompt begins with the schemas of its tools and ends with the question


def colored_completion(
    completion_ids: Sequence[int], region_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> Text:
    """
    Color a completion by the regions of its tokens.

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
        # Runs of a region are decoded together, because a character can be split over tokens.
        if index == len(completion_ids) or region_ids[index] != region_ids[start]:
            run: Any = tokenizer.decode(list(completion_ids[start:index]))
            text.append(run, style=COLORS[Region(region_ids[start])].terminal)
            start = index
    return text


def legend() -> Text:
    """The names of the regions in their colours."""
    return Text(" ").join(Text(region.name.lower(), style=COLORS[region].terminal) for region in list(Region)[1:])


def described_completion(item: Inspected, tokenizer: PreTrainedTokenizerBase) -> Text:
    """Describe a completion: end of its prompt, rewards, coefficients per region, and the text, turn by turn."""
    completion = item.completion
    lines = []
    if completion.prompt is not None:
        cut = len(completion.prompt) > _PROMPT_END
        lines.append(Text("… " * cut + completion.prompt[-_PROMPT_END:].strip(), style="dim"))
    if completion.scores:
        lines.append(Text("  ".join(f"{name} {value:.3f}" for name, value in completion.scores.items()), style="bold"))
    lines += [Text(text, style=COLORS[region].terminal) for region, text in region_summary(item)]
    if not has_turns(completion):
        lines.append(colored_completion(completion.completion_ids, item.region_ids, tokenizer))
    for piece in pieces_of(completion) if has_turns(completion) else []:
        place = slice(piece.start, piece.stop)
        lines.append(Text(described_piece(item, piece), style="dim" if piece.turn is None else "bold"))
        lines.append(colored_completion(completion.completion_ids[place], item.region_ids[place], tokenizer))
    if item.gold_ids is not None and item.gold_region_ids is not None:
        verdict = item.verdict()
        lines.append(Text(f"Gold, {verdict}:" if verdict else "Gold:", style="bold"))
        lines.append(colored_completion(item.gold_ids, item.gold_region_ids, tokenizer))
    return Text("\n").join(lines)
