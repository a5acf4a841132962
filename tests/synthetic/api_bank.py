"""The three files of API-Bank as ToolRL processed it: their structure, sizes and dialogues, with invented content."""

import json
from itertools import chain, repeat
from pathlib import Path
from random import Random
from typing import Any

from .tools import TOOLS, Tool, value_of


# By level, how many dialogues there are that give 1, 2, ... samples, as in the real files.
DIALOGUES = {1: (91, 75, 32, 8, 6), 2: (23, 22), 3: (0, 34, 6, 5, 5)}
# API-Bank's tools are named by one word.
PORT_TOOLS = [tool for tool in TOOLS if " " not in tool.name]
HIDDEN_TOOLS = 6  # samples of level 2 whose prompt does not list the tool of the gold call


def _listed(tools: list[Tool], level: int) -> str:
    """The list of tools in a system prompt; level 3 writes it in another form, and all write Python's literals."""
    entries = []
    for number, tool in enumerate(tools, start=1):
        parameters = {
            name: {"type": kind, "description": f"The {name}, it's a {kind}."}
            for name, kind in tool.parameters.items()
        }
        head = f"{tool.name}: " if level == 3 else f"Name: {tool.name}\nDescription: "
        entries.append(f"{number}. {head}{tool.description}\nParameters: {parameters}")
    return "\n".join(entries)


def _system(tools: list[Tool], level: int) -> str:
    return (
        "You run the office of a small port.\n\n**Available Tools**\nThese tools are yours:\n"
        f"{_listed(tools, level)}\n\n**Steps for Each Turn**\n1. Think first.\n2. Then call, then speak.\n\n"
        '**Output Format**\n<think> why </think>\n<tool_call>\n{"name": "...", "parameters": {}}\n</tool_call>\n'
    )


def _call(tool: Tool, rng: Random) -> dict[str, Any]:
    """A call as the data writes it: every value is a string."""
    values = {name: value_of(kind, rng) for name, kind in tool.parameters.items()}
    return {"name": tool.name, "parameters": {name: str(value) for name, value in values.items()}}


def _history(tool: Tool, level: int, steps: int, rng: Random) -> str:
    """What was said before the gold call: so many earlier calls with their results."""
    padding = "" if level == 1 else " "
    lines = ["***Dialogue Records History**" if level == 2 else "**Dialogue Records History**"]
    for _ in range(steps):
        call = _call(rng.choice(PORT_TOOLS), rng)
        lines.append(f"<user>{padding}Please see to {call['name']} now.{padding}</user>")
        if level < 3:
            lines.append(f"<response>{padding}I look for the right tool.{padding}</response>")
        if level == 2:
            lines.append("<response> I have found it. </response>")
        lines += ["<tool_call>", json.dumps(call), "</tool_call>", f"<obs> {{'done': {call['parameters']}}} </obs>"]
        if level == 1:
            lines.append("<response>That is settled.</response>")
        lines.append("")
    lines += [f"<user>{padding}And now the matter of {tool.name}.{padding}</user>", ""]
    return "\n".join([*lines, "<user> Call one tool for that. </user>", ""])


def samples(level: int, seed: int = 0) -> list[dict[str, Any]]:
    """The samples of a level; those of one dialogue have ever longer histories."""
    rng, rows = Random(f"api_bank-{level}-{seed}"), []
    sizes = chain.from_iterable(repeat(size, count) for size, count in enumerate(DIALOGUES[level], start=1))
    for dialogue, size in enumerate(sizes):
        for step in range(size):
            # The dialogues of one sample come first, so these are as many samples.
            hides_tool = level == 2 and dialogue < HIDDEN_TOOLS
            tool = rng.choice([tool for tool in PORT_TOOLS if tool.parameters or not hides_tool])
            shown = rng.sample([other for other in PORT_TOOLS if other is not tool], rng.randint(1, 2))
            shown += [] if hides_tool else [tool]
            answer, source = _call(tool, rng), {"file": f"{dialogue}.jsonl", "id": step}
            if level == 3:
                source = {"sample_id": dialogue, "api_id": step}
            rows.append(
                {
                    "system": _system(shown, level),
                    "user": _history(tool, level, step, rng),
                    "answer": answer if level == 2 else [answer],
                    "other": source,
                }
            )
    return rows


def write_api_bank(folder: Path) -> None:
    """Write `level-{1,2,3}-api_processed.json`."""
    folder.mkdir(parents=True)
    for level in DIALOGUES:
        path = folder / f"level-{level}-api_processed.json"
        path.write_text(json.dumps(samples(level), ensure_ascii=False), encoding="utf-8")
