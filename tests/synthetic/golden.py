"""Completions with the rewards and token coefficients of the released code, as `released.py` states it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from transformers import AutoTokenizer

from rest_trl.lab.tiny import TINY_MODEL_DIR

from .released import ReleasedCodeRaises, released_reward, released_spans, released_tokens


REWARD_STEPS = {"reward_static": None} | {f"reward_scheduled_step_{step}": step for step in (0, 50, 105, 150, 300)}
WEIGHT_STEPS = (0, 100, 300)


def _last(text: str, old: str, new: str) -> str:
    """Replaces the last occurrence, which is never one that the reasoning quotes."""
    head, found, tail = text.rpartition(old)
    return head + new + tail if found else text


def _swap(gold: str, rng: Random) -> str:
    head, _, tail = gold.rpartition("</think>\n")
    return f"{tail}\n{head}</think>"


def _block(gold: str) -> str:
    start = max(gold.rfind("\n<tool_call>"), gold.rfind("\n<response>"))
    return gold[start:]


# What is done to a gold completion, by the names that the real file has for it.
DAMAGES: dict[str, Callable[[str, Random], str]] = {
    "exact": lambda gold, rng: gold,
    "truncated": lambda gold, rng: gold[: rng.randrange(1, len(gold))],
    "bad_json": lambda gold, rng: _last(gold, "}}\n", "}\n"),
    "wrong_name": lambda gold, rng: _last(gold, '"name": "', '"name": "x_'),
    "param_renamed": lambda gold, rng: _last(gold, '"parameters": {"', '"parameters": {"q_'),
    "value_changed": lambda gold, rng: _last(gold, '": 1', '": 9') if '": 1' in gold else _last(gold, '": "', '": "z'),
    "arguments_key": lambda gold, rng: _last(gold, '"parameters"', '"arguments"'),
    "extra_call": lambda gold, rng: _last(
        gold, "\n</tool_call>", '\n{"name": "extra", "parameters": {}}\n</tool_call>'
    ),
    "double_block": lambda gold, rng: gold + _block(gold),
    "swapped_order": _swap,
    "prose_around": lambda gold, rng: f"Well then.\n{gold}\nThat is all.",
    "no_tool_open": lambda gold, rng: _last(gold, "<tool_call>", ""),
    "no_think_close": lambda gold, rng: _last(gold, "</think>", ""),
    "unicode": lambda gold, rng: _last(gold, " </think>", " ⚓ 港の天気 e\u0301 </think>"),
}


def golden_rows(golds: list[str], seed: int = 0) -> list[dict[str, Any]]:
    """One row for each gold completion; the kinds of damage come in turn."""
    rng, tokenizer = Random(f"golden-{seed}"), AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    rows = []
    for index, gold in enumerate(golds):
        kind = list(DAMAGES)[index % len(DAMAGES)]
        completion = DAMAGES[kind](gold, rng)
        encoded = tokenizer(completion, return_offsets_mapping=True, add_special_tokens=False)
        row: dict[str, Any] = {"id": f"{index}-0", "kind": kind, "completion": completion, "answer": gold}
        for column, step in REWARD_STEPS.items():
            try:
                row[column] = released_reward(completion, gold, step)
            except ReleasedCodeRaises as error:
                row[column] = {"error": str(error)}
        row["token_ids"] = encoded["input_ids"]
        spans = released_spans(completion)
        for step in WEIGHT_STEPS:
            row[f"weights_step_{step}"] = released_tokens(spans, encoded["offset_mapping"], step).tolist()
        rows.append(row)
    return rows


def write_golden(folder: Path, golds: list[str]) -> None:
    """Write `released_golden.jsonl.gz` and the tokenizer of its ids."""
    folder.mkdir(parents=True)
    with gzip.open(folder / "released_golden.jsonl.gz", "wt", encoding="utf-8") as file:
        for row in golden_rows(golds):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    AutoTokenizer.from_pretrained(TINY_MODEL_DIR).save_pretrained(folder / "tokenizer")
