"""
Draws two completions of one prompt: their regions, and the advantages that GRPO and region credit give their tokens.

```shell
make figures
```

The policy is the embedded tiny model before any training. The prompt is the first held-out one where two completions
of a group call the gold tool and differ in how many values are right: of other prompts region credit has nothing to
tell apart. All figures are computed by the library; nothing is drawn by hand.
"""

from html import escape
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from rest_trl.credit.advantages import credited_advantages
from rest_trl.lab.display.colors import COLORS, TEXT_ON_LIGHT
from rest_trl.lab.sampling import sample
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset
from rest_trl.regions.partition import Partitioner, to_regions
from rest_trl.rewards import LayoutReward, ToolCallReward, is_exact
from rest_trl.tool_calls import Region, get_syntax


GROUP, LENGTH = 8, 128
WIDTH, MARGIN, LINE, LETTER = 940, 14, 21, 7.2
COLUMNS = int((WIDTH - 2 * MARGIN) / LETTER)


class Shown(NamedTuple):
    """A completion as it is drawn; lists of length `T`."""

    tokens: list[str]
    regions: list[int]
    credited: list[float]
    advantage: float
    reward: float
    exact: bool


def roll_out(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, row: dict, seed: int) -> list[Shown]:
    """
    A group of completions, with the rewards and advantages that a first training step would give them.

    Args:
        model ([`~torch.nn.Module`]):
            The policy.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        row (`dict`):
            `prompt` and `solution`.
        seed (`int`):
            Seed of the sampling.

    Returns:
        `list[Shown]`
    """
    ids = sample(model, tokenizer, [row["prompt"]] * GROUP, LENGTH, seed)
    ended = (ids == tokenizer.eos_token_id).cumsum(1)
    mask = (ended - (ids == tokenizer.eos_token_id).long() == 0).long()
    reading = Partitioner(tokenizer, get_syntax("hermes")).read(ids, mask)
    arguments = {"completion_ids": ids.tolist(), "solution": [row["solution"]] * GROUP}
    layout, calls = (
        reward.bind("hermes", lambda _: reading.turns, "static", 1) for reward in (LayoutReward(), ToolCallReward())
    )
    rewards = torch.tensor([reward(completions=[""] * GROUP, **arguments) for reward in (layout, calls)]).T
    totals = rewards.sum(1)
    advantages = (totals - totals.mean()) / (totals.std() + 1e-4)
    segments = [[[], of_calls] for of_calls in calls.segments(**arguments)]
    credited = credited_advantages(advantages, rewards, torch.ones(2), segments, GROUP, ids.size(1))
    gold = get_syntax("hermes").parse(row["solution"])
    regions = to_regions(reading.part_ids)
    return [
        Shown(
            [tokenizer.decode([token]) for token in ids[i, mask[i].bool()].tolist()],
            regions[i, mask[i].bool()].tolist(),
            credited[i, mask[i].bool()].tolist(),
            float(advantages[i]),
            float(totals[i]),
            is_exact(reading.turns[i][0].parsed, gold),
        )
        for i in range(GROUP)
    ]


def differing(group: list[Shown]) -> list[Shown]:
    """The best completion of a group and the best of those with a lower reward, if credit tells their tokens apart."""
    ranked = sorted(group, key=lambda shown: shown.reward, reverse=True)
    lower = [shown for shown in ranked if 0 < shown.reward < ranked[0].reward]
    told_apart = [shown for shown in lower if max(shown.credited) - min(shown.credited) > 0.5]
    return [ranked[0], told_apart[0]] if ranked[0].exact and told_apart else []


def _shade(advantage: float) -> str:
    """Green for positive advantages, red for negative ones, the deeper the larger; white at 0."""
    depth = min(1.0, abs(advantage) / 1.3)
    full = (67, 160, 71) if advantage > 0 else (229, 83, 75)
    return "#" + "".join(f"{round(255 + depth * (channel - 255)):02x}" for channel in full)


def _draw_tokens(tokens: list[str], fills: list[str], top: int) -> tuple[list[str], int]:
    """Tokens side by side on their backgrounds, wrapped; returns what is drawn and where it ends."""
    drawn, column, line = [], 0, 0
    for token, fill in zip(tokens, fills, strict=True):
        for piece_number, piece in enumerate(token.split("\n")):
            if piece_number:  # a line break is shown as a mark, which saves height
                piece = "⏎" + piece
            if not piece:
                continue
            if column + len(piece) > COLUMNS:
                column, line = 0, line + 1
            x, y, width = MARGIN + column * LETTER, top + line * LINE, len(piece) * LETTER
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{LINE - 3}" fill="{fill}"/>'
                f'<text class="t" x="{x:.1f}" y="{y + 13}" textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs"'
                f' xml:space="preserve">{escape(piece)}</text>'
            )
            column += len(piece)
    return drawn, top + (line + 1) * LINE


def draw(shown: list[Shown]) -> str:
    """
    The picture.

    Args:
        shown (`list[Shown]`):
            Completions of one group.

    Returns:
        `str`: SVG.
    """
    body, top = [], MARGIN
    x = MARGIN
    for region in list(Region)[1:]:
        name = region.name.lower().replace("_", " ")
        width = len(name) * LETTER + 14
        body.append(
            f'<rect x="{x:.0f}" y="{top}" width="{width:.0f}" height="19" rx="3" fill="{COLORS[region].light}"/>'
            f'<text class="h" x="{x + 7:.0f}" y="{top + 14}">{name}</text>'
        )
        x += width + 8
    top += 34
    for item in shown:
        right = "all of the call right" if item.exact else "a part of the call wrong"
        body.append(
            f'<text class="b" x="{MARGIN}" y="{top + 10}">Reward {item.reward:.2f} ({right}). GRPO gives every token '
            f"the advantage {item.advantage:+.2f}.</text>"
        )
        drawn, top = _draw_tokens(item.tokens, [COLORS[Region(r)].light for r in item.regions], top + 18)
        body += drawn
        low, high = min(item.credited), max(item.credited)
        body.append(
            f'<text class="h" x="{MARGIN}" y="{top + 14}">Region credit gives between {low:+.2f} and {high:+.2f}: '
            "green above 0, red below, white near 0.</text>"
        )
        drawn, top = _draw_tokens(item.tokens, [_shade(value) for value in item.credited], top + 22)
        body += drawn
        top += 14
    style = (
        f".t{{font:12px ui-monospace,Menlo,Consolas,monospace;fill:{TEXT_ON_LIGHT}}}"
        f".h{{font:13px system-ui,sans-serif;fill:{TEXT_ON_LIGHT}}}"
        f".b{{font:600 14px system-ui,sans-serif;fill:{TEXT_ON_LIGHT}}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}">'
        f'<title>Regions and advantages of two completions</title><style>{style}</style><rect width="{WIDTH}" '
        f'height="{top}" fill="#ffffff"/>' + "".join(body) + "</svg>\n"
    )


def main() -> None:
    """Write `completion.svg` beside this file."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR)
    for row in load_tiny_dataset("test", size=64):
        shown = differing(roll_out(model, tokenizer, row, seed=0))
        if shown:
            Path(__file__).with_suffix(".svg").write_text(draw(shown), encoding="utf-8")
            return
    raise SystemExit("no group of the first 64 held-out prompts has two completions to tell apart")


if __name__ == "__main__":
    main()
