"""Rows of ToolRL's two schemas: 400 for fine-tuning, and the first 48 of them for reinforcement learning."""

import json
from pathlib import Path
from random import Random
from typing import Any

from datasets import Dataset

from .tools import TOOLS, WORDS, nested_value, value_of


SFT_ROWS, RL_ROWS = 400, 48
# Gold completions by what they hold: calls, words for the user, both; quoting ones name the tags in their reasoning.
QUOTING_CALLS, QUOTING_BOTH, RESPONSES = 15, 5, 49

INSTRUCTION = """\
You keep the books of a small port.

**Available Tools**
{tools}

**Steps for Each Turn**
1. Reason in <think>, call tools in <tool_call>, and speak to the user in <response>."""


def _call(rng: Random) -> dict[str, Any]:
    tool = rng.choice(TOOLS)
    parameters = {name: value_of(kind, rng) for name, kind in tool.parameters.items()}
    if rng.random() < 0.2:
        parameters["details"] = nested_value(rng)
    return {"name": tool.name, "parameters": parameters}


def gold_completion(index: int, rng: Random) -> str:
    """A gold completion; its index says what it holds."""
    quotes = index < QUOTING_CALLS + QUOTING_BOTH
    calls = quotes or index >= QUOTING_CALLS + QUOTING_BOTH + RESPONSES
    answers = not calls or QUOTING_CALLS <= index < QUOTING_CALLS + QUOTING_BOTH
    thoughts = [f"The {rng.choice(WORDS)} comes before the {rng.choice(WORDS)}." for _ in range(rng.randint(4, 12))]
    if quotes:
        thoughts.append("My call belongs between <tool_call> and </tool_call>.")
    blocks = [f"<think> {' '.join(thoughts)} </think>"]
    if calls:
        lines = [json.dumps(_call(rng), ensure_ascii=rng.random() < 0.5) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        blocks.append("<tool_call>\n" + "\n".join(lines) + "\n</tool_call>")
    if answers:
        blocks.append(f"<response> The {rng.choice(WORDS)} is ready. </response>")
    return "\n".join(blocks)


def sft_rows(seed: int = 0) -> list[dict[str, str]]:
    """Rows with `instruction`, `input` and `output`, in random order."""
    rng = Random(f"rlla-{seed}")
    outputs = [gold_completion(index, rng) for index in range(SFT_ROWS)]
    rng.shuffle(outputs)
    tools = "\n".join(
        f"{number}. Name: {tool.name}\nDescription: {tool.description}\nParameters: {json.dumps(tool.parameters)}"
        for number, tool in enumerate(TOOLS, start=1)
    )
    return [
        {
            "instruction": INSTRUCTION.format(tools=tools),
            "input": f"**Dialogue Records History**\n<user> Case {index}: {rng.choice(WORDS)}. </user>",
            "output": output,
        }
        for index, output in enumerate(outputs)
    ]


def rl_rows(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The same questions in the schema of reinforcement learning."""
    return [
        {
            "data_source": "synthetic",
            "prompt": [
                {"role": "system", "content": row["instruction"]},
                {"role": "user", "content": row["input"]},
            ],
            "ability": "tools",
            "reward_model": {"style": "rule", "ground_truth": row["output"]},
            "extra_info": {"index": index, "split": "train", "output": ""},
        }
        for index, row in enumerate(rows)
    ]


def write_rlla(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write `rlla_sft.json` and `rlla_rl_48.parquet`."""
    folder.mkdir(parents=True)
    (folder / "rlla_sft.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    Dataset.from_list(rl_rows(rows[:RL_ROWS])).to_parquet(str(folder / f"rlla_rl_{RL_ROWS}.parquet"))
