"""Reads completions from files, as token ids with everything that the file says about them."""

import json
from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas
from transformers import PreTrainedTokenizerBase

from ...tool_calls import Region, was_cut
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
        solution (`str` or `Mapping`, *optional*):
            The gold completion, or its `text` and `alternatives`, if the file has it.
        step (`int`, *optional*):
            The step of the training, if the file has it.
        tools (`str` or `list`, *optional*):
            The tools of its row, if the file has them.
        truncated (`bool`):
            Whether it was cut off: as the file says, else if it has ids of which the last is no special token.
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
    solution: str | Mapping[str, Any] | None = None
    step: int | None = None
    tools: Any = None
    truncated: bool = False


def read_completions(
    path: Path, tokenizer: PreTrainedTokenizerBase, limit: int, all_steps: bool = False
) -> list[Completion]:
    """
    Read completions from a parquet or .jsonl file, a text file, or the tables in the output directory of a run.

    Of a run, the last table is read, or all with `all_steps`, and `limit` completions of each.

    The tokens that training saw are taken where they are stored: in columns `completion_ids` and `part_ids`, or for a
    table of TRL in the file beside it, see [`tokens_path`]. Otherwise text is tokenised here. The column `regions` is
    preferred to `completion`, because it holds markers that are special tokens and tells tool results apart.

    Raises:
        ValueError: if a row has none of the columns, its calls have been taken out of the text, or a line is not a
            JSON object.
        FileNotFoundError: if there is no such file.
    """
    if path.is_dir():
        tables = _tables(path)
        return [
            completion
            for table in (tables if all_steps else tables[-1:])
            for completion in read_completions(table, tokenizer, limit)
        ]
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


def _tables(path: Path) -> list[Path]:
    tables = [*path.glob("completions_*.parquet"), *path.glob("completions/completions_*.parquet")]
    # By number, because from step 100,000 on names have another length.
    steps = {int(step): table for table in tables if (step := table.stem.removeprefix("completions_")).isdecimal()}
    if not steps:
        raise ValueError(f"{path} has no tables of completions: train with log_completions, or give a file")
    return [steps[step] for step in sorted(steps)]


def _lines(path: Path, limit: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(islice(file, limit), 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(
                    f"line {number} of {path} is not a JSON object: write one object per line, each a completion"
                )
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
            ids = encode(text, tokenizer)
            completion_ids += ids
            policy += [of_policy] * len(ids)
    turn_rewards, truncated = row.get("turn_rewards"), row.get("truncated")
    if truncated is None and not from_text:
        special = [token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special]
        truncated = was_cut(completion_ids, special)
    return Completion(
        title=f"Completion {index}" + (f", step {row['step']}" if "step" in row else ""),
        prompt=_prompt(row.get("prompt")),
        # TRL's table has a column per reward function, NaN where it gave none, and one for the advantage.
        scores={
            name: float(value)
            for name, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and value == value and name != "step"
        },
        completion_ids=completion_ids,
        policy=policy,
        part_ids=part_ids,
        coefficients=coefficients,
        from_text=from_text,
        advantages=advantages,
        turn_rewards=json.loads(turn_rewards) if isinstance(turn_rewards, str) else {},
        solution=row["solution"] if isinstance(row.get("solution"), str | dict) else None,
        step=int(row["step"]) if isinstance(row.get("step"), int) else None,
        tools=row.get("tools"),
        truncated=bool(truncated),
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


def encode(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of text that the policy wrote or might write."""
    # Markers are added tokens, and often special ones: each must become its own token, not be split as text.
    ids: Any = tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    return [int(token_id) for token_id in ids]
