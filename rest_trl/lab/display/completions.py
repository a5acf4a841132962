"""Completions of a file, as token ids with everything that the file says about them."""

import json
from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas
from transformers import PreTrainedTokenizerBase

from ...tool_calls import Region
from .colors import COLORS


_REGION_OF_SQUARE = {colors.square: region for region, colors in COLORS.items()}


class Completion(NamedTuple):
    """
    A completion as a file has it.

    Args:
        title (`str`):
            Its number, and its step if the file says it.
        prompt (`str`, *optional*):
            The prompt as text.
        scores (`dict[str, float]`):
            Rewards and advantage.
        completion_ids (`list[int]` of length `T`):
            Token ids.
        policy (`list[bool]` of length `T`):
            Whether the policy sampled the token; the others came from tools or the chat template.
        part_ids (`list[int]` of length `T`, *optional*):
            [`~rest_trl.tool_calls.Part`] per token as training saw it, if the file has it.
        coefficients (`list[float]` of length `T`, *optional*):
            Coefficient per token as training used it, if the file has it.
        from_text (`bool`):
            Whether the ids were made here from text, and may differ from those that were sampled.
        advantages (`list[float]` of length `T`, *optional*):
            Advantage per token before the coefficients, if the file has it; else all tokens have that of `scores`.
        turn_rewards (`Mapping[str, list[float]]`, *optional*):
            Rewards of the turns, by the names of the functions that gave them.
    """

    title: str
    prompt: str | None
    scores: dict[str, float]
    completion_ids: list[int]
    policy: list[bool]
    part_ids: list[int] | None
    coefficients: list[float] | None
    from_text: bool
    advantages: list[float] | None = None
    turn_rewards: Mapping[str, list[float]] = MappingProxyType({})


class Inspected(NamedTuple):
    """
    A completion with its regions and coefficients.

    Args:
        completion ([`Completion`]):
            What the file says.
        region_ids (`list[int]` of length `T`):
            [`Region`] per token.
        coefficients (`list[float]` of length `T`, *optional*):
            Coefficient per token, if it is known.
    """

    completion: Completion
    region_ids: list[int]
    coefficients: list[float] | None


def region_summary(item: Inspected) -> list[tuple[Region, str]]:
    """
    Number of tokens and mean coefficient of every region that a completion has.

    Args:
        item ([`Inspected`]):
            The completion.

    Returns:
        `list[tuple[Region, str]]`: with the range of the coefficients where a region has several.
    """
    summary = []
    for region in Region:
        places = [place for place, region_id in enumerate(item.region_ids) if region_id == region]
        if not places:
            continue
        name = "not the policy's" if region is Region.NONE else region.name.lower()
        text = f"{name}: {len(places)} token{'s' if len(places) > 1 else ''}"
        if item.coefficients is not None and region is not Region.NONE:
            values = [item.coefficients[place] for place in places]
            text += f", coefficient {sum(values) / len(values):.3f}"
            if max(values) - min(values) >= 0.0005:
                text += f" ({min(values):.3f} to {max(values):.3f})"
        summary.append((region, text))
    return summary


def read_completions(path: Path, tokenizer: PreTrainedTokenizerBase, limit: int) -> list[Completion]:
    """
    Completions of a file.

    The tokens that training saw are taken where they are stored: in columns `completion_ids` and `part_ids`, or for a
    table of TRL in the file beside it, see [`tokens_path`]. Otherwise text is tokenised here. The column `regions` is
    preferred to `completion`, because it holds markers that are special tokens and tells tool results apart.

    Args:
        path (`Path`):
            A parquet or .jsonl with one of the columns `completion_ids`, `regions` and `completion`, a text file, or
            the output directory of a run, of which the last table is read.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        limit (`int`):
            Completions to read at most.

    Returns:
        `list[Completion]`

    Raises:
        ValueError: if a row has none of the columns, its calls have been taken out of the text, or a line is no JSON
            object.
        FileNotFoundError: if there is no such file.
    """
    if path.is_dir():
        path = _last_table(path)
    if path.suffix == ".parquet":
        rows = _table(path, limit)
    elif path.suffix in (".jsonl", ".json"):
        rows = _lines(path, limit)
    else:
        rows = [{"completion": path.read_text(encoding="utf-8")}]
    return [_completion(f"{path}, row {index}", index, row, tokenizer) for index, row in enumerate(rows)]


def tokens_path(path: Path) -> Path:
    """The file with the tokens of a table of TRL, see [`~rest_trl.lab.display.token_log.TokenLog`]."""
    return path.parent.parent / "completion_tokens" / path.name.replace("completions", "completion_tokens", 1)


def _last_table(path: Path) -> Path:
    tables = [*path.glob("completions_*.parquet"), *path.glob("completions/completions_*.parquet")]
    # By number, because from step 100,000 on names have another length.
    steps = {int(step): table for table in tables if (step := table.stem.removeprefix("completions_")).isdecimal()}
    if not steps:
        raise ValueError(f"{path} holds no tables of completions: train with log_completions, or give a file")
    return steps[max(steps)]


def _lines(path: Path, limit: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(islice(file, limit), 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} of {path} is no JSON object: write each completion as one on a line")
            rows.append(row)
    return rows


def _table(path: Path, limit: int) -> list[dict[str, Any]]:
    table = pandas.read_parquet(path)
    tokens = tokens_path(path)
    if "completion_ids" not in table and tokens != path and tokens.exists():
        stored = pandas.read_parquet(tokens)
        if len(stored) != len(table):
            raise ValueError(f"{tokens} has {len(stored)} rows and {path} {len(table)}: they are of different runs")
        table = pandas.concat([table, stored], axis=1)
    rows: list[dict[str, Any]] = table.head(limit).to_dict("records")
    return rows


def _completion(where: str, index: int, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Completion:
    part_ids = coefficients = advantages = None
    completion_ids = _as_list(row.get("completion_ids"))
    from_text = completion_ids is None
    if completion_ids is not None:
        part_ids, coefficients = _as_list(row.get("part_ids")), _as_list(row.get("coefficients"))
        advantages = _as_list(row.get("advantages"))
        columns = completion_ids, part_ids, coefficients, advantages
        if len({len(values) for values in columns if values is not None}) > 1:
            raise ValueError(f"{where}: completion_ids, part_ids, coefficients and advantages differ in length")
        policy = [True] * len(completion_ids) if part_ids is None else [part != 0 for part in part_ids]
    else:
        completion_ids, policy = [], []
        for text, of_policy in _turns(where, row):
            ids = _encode(text, tokenizer)
            completion_ids += ids
            policy += [of_policy] * len(ids)
    turn_rewards = row.get("turn_rewards")
    return Completion(
        title=f"Completion {index}" + (f", step {row['step']}" if "step" in row else ""),
        prompt=_prompt(row.get("prompt")),
        # TRL's table has a column per reward function, and one for the advantage.
        scores={
            name: float(value)
            for name, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
        },
        completion_ids=completion_ids,
        policy=policy,
        part_ids=part_ids,
        coefficients=coefficients,
        from_text=from_text,
        advantages=advantages,
        turn_rewards=json.loads(turn_rewards) if isinstance(turn_rewards, str) else {},
    )


def _turns(where: str, row: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Text of a completion, turn by turn, and whether the policy wrote it."""
    if isinstance(row.get("regions"), str):
        yield from _marked_turns(row["regions"])
    elif isinstance(row.get("completion"), str):
        yield row["completion"], True
    elif row.get("completion") is not None:
        for message in _as_list(row["completion"]) or []:
            if _as_list(message.get("tool_calls")):
                raise ValueError(
                    f"{where}: the calls have been taken out of the text of its messages: give a table with a column "
                    "regions or completion_ids, as a run with log_completions writes it"
                )
            yield _content(message), message["role"] == "assistant"
    else:
        raise ValueError(f"{where}: needs a column completion_ids, regions or completion, has {sorted(row)}")


def _marked_turns(marked: str) -> Iterator[tuple[str, bool]]:
    runs: list[tuple[Region, str]] = []
    for character in marked:
        if character in _REGION_OF_SQUARE:
            runs.append((_REGION_OF_SQUARE[character], ""))
        elif runs:
            runs[-1] = (runs[-1][0], runs[-1][1] + character)
    for of_policy, turn in groupby(runs, key=lambda run: run[0] is not Region.NONE):
        yield "".join(text for _, text in turn), of_policy


def _content(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in _as_list(content) or [])


def _prompt(prompt: Any) -> str | None:
    messages = _as_list(prompt)
    if messages is None:
        return prompt if isinstance(prompt, str) else None
    return "\n".join(f"{message['role']}: {_content(message)}" for message in messages)


def _as_list(values: Any) -> list[Any] | None:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    return values if isinstance(values, list) else None


def _encode(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # Markers are added tokens, and often special ones: each must become its own token, not be split as text.
    ids: Any = tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    return [int(token_id) for token_id in ids]
