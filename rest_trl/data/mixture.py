"""The paper's mixture of data sets: 2,000 steps of ToolACE, 1,000 of Hammer with masked names, 1,000 of xLAM."""

import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from .examples import read_steps
from .leaks import TestQuestions, plain_words
from .masking import check_masks, mask_step
from .messages import MalformedRowError, Message
from .rendering import REASONING_KEYS
from .rows import Step, text
from .sources import open_sources


# What the file keeps of a message beside role, content and calls, where a message has it.
_KEPT = ("name", *REASONING_KEYS)


class Part(NamedTuple):
    """
    One part of a mixture.

    Args:
        name (`str`):
            Its name in the column `part`.
        dataset_name (`str`):
            A file, a directory or a Hub id.
        number (`int`):
            How many steps it gives.
        masks (`tuple[str, ...]`):
            Which names of the tools become random, see [`~rest_trl.data.masking.mask_step`].
    """

    name: str
    dataset_name: str
    number: int
    masks: tuple[str, ...] = ()


class Dialogue(NamedTuple):
    """The steps of one row, the plain words of its first question, and the place of the row (`name#row`)."""

    words: tuple[str, ...]
    steps: list[Step]
    source: str


@dataclass
class PartReport:
    """
    What became of the rows of a part. Each is counted in `malformed`, `same_query` or `leaks`, or could be drawn.

    Args:
        name (`str`):
            Name of the part.
        schema (`str`):
            The schema that its rows were read as.
        rows (`int`):
            Number of its rows.
        malformed (`list[str]`):
            Place and reason of each row that cannot be read.
        same_query (`int`):
            Rows whose first question is that of an earlier row of this part, or of a row drawn for an earlier part.
        leaks (`int`):
            Rows with a question that the tests hold.
        drawn (`int`):
            Steps in the training file.
        test (`int`):
            Steps in the test file.
    """

    name: str
    schema: str
    rows: int
    malformed: list[str]
    same_query: int = 0
    leaks: int = 0
    drawn: int = 0
    test: int = 0


def build_mixture(
    parts: Sequence[Part], seed: int = 0, tests: TestQuestions | None = None, test_number: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[PartReport]]:
    """
    Draw steps from several data sets.

    The steps of a dialogue are drawn together, all for training or all for the test. No first question is in two parts
    or on both sides, because Hammer's rows are those of xLAM with other names.

    Args:
        parts (`Sequence[Part]`):
            The parts.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draw, the masks and the order.
        tests ([`~rest_trl.data.leaks.TestQuestions`], *optional*):
            Questions to keep out of both sides.
        test_number (`int`, *optional*, defaults to `0`):
            Number of further steps to hold out as a test, from all parts in proportion.

    Returns:
        `tuple[list[dict], list[dict], list[PartReport]]`: Rows of training and of the test, with the columns `prompt`,
        `completion`, `tools`, `part` and `source`, and one report per part.

    Raises:
        `ValueError`: If a part has too few steps or a mask that there is not.
    """
    for part in parts:
        check_masks(part.masks)
    tests = tests or TestQuestions()
    taken: set[tuple[str, ...]] = set()
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    reports = []
    for part, share in zip(parts, _shares(test_number, [part.number for part in parts]), strict=True):
        dialogues, report = _read_part(part, taken, tests)
        reports.append(report)
        random.Random(f"{seed} {part.name}").shuffle(dialogues)
        queue = iter(dialogues)
        report.test, report.drawn = share, part.number
        for number, side in ((report.test, sides[1]), (report.drawn, sides[0])):
            steps = list(_draw(queue, number, taken))
            if len(steps) < number:
                raise ValueError(
                    f"{part.name}: {part.dataset_name} has {sum(len(d.steps) for d in dialogues)} steps that can be "
                    f"drawn, and {report.test + report.drawn} are asked for: ask for fewer"
                )
            for step, source in steps:
                masked = mask_step(step, part.masks, f"{seed} {source}")
                side.append({**_columns(masked), "part": part.name, "source": source})
    for side in sides:
        random.Random(seed).shuffle(side)
    return sides[0], sides[1], reports


def write_mixture(rows: list[dict[str, Any]], path: Path) -> None:
    """
    Write rows to a Parquet file, whole or not at all.

    Args:
        rows (`list[dict]`):
            From [`build_mixture`].
        path (`Path`):
            The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    Dataset.from_list(rows).to_parquet(temporary)
    os.replace(temporary, path)


def _shares(number: int, weights: Sequence[int]) -> list[int]:
    """Divide a number in proportion to weights. What rounding down leaves goes to the largest remainders."""
    total = sum(weights)
    shares = [number * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: -(number * weights[index] % total))
    for index in by_remainder[: number - sum(shares)]:
        shares[index] += 1
    return shares


def _read_part(part: Part, taken: set[tuple[str, ...]], tests: TestQuestions) -> tuple[list[Dialogue], PartReport]:
    """The dialogues that can be drawn: one per first question that no earlier part has `taken`."""
    dialogues: list[Dialogue] = []
    seen = set(taken)
    report = PartReport(part.name, "", 0, [])
    for source in open_sources(part.dataset_name, "train", None):
        steps_of, found = read_steps(source)
        report.schema = found.schema
        report.rows += found.rows
        for index, raw in enumerate(source.rows):
            place = f"{source.name}#{index}"
            try:
                steps = steps_of(raw)
                questions = [plain_words(m["content"]) for m in _messages(steps[-1]) if m["role"] == "user"]
                if not questions:
                    raise MalformedRowError("nobody asks anything")
            except MalformedRowError as error:
                report.malformed.append(f"{place}: {error}")
                continue
            if questions[0] in seen:
                report.same_query += 1
            elif any(map(tests.hold, questions)):
                report.leaks += 1
            else:
                seen.add(questions[0])
                dialogues.append(Dialogue(questions[0], steps, place))
    return dialogues, report


def _draw(dialogues: Iterator[Dialogue], number: int, taken: set[tuple[str, ...]]) -> Iterator[tuple[Step, str]]:
    """The next `number` steps. The questions of their dialogues become `taken`; the last dialogue may be cut short."""
    while number > 0:
        dialogue = next(dialogues, None)
        if dialogue is None:
            return
        taken.add(dialogue.words)
        for step in dialogue.steps[:number]:
            yield step, dialogue.source
        number -= len(dialogue.steps)


def _messages(step: Step) -> list[Message]:
    """The history of a step, if all that the file keeps of it and of the turn can be written to columns."""
    if isinstance(step.history, str) or isinstance(step.turn, str):
        raise MalformedRowError("it holds text in a final form, which cannot be brought to the other parts' form")
    for message in (*step.history, step.turn):
        for key in _KEPT:
            text(message.get(key, ""), f"{key} of a message")
    return step.history


def _columns(step: Step) -> dict[str, Any]:
    """Columns of the same types in all rows: arguments and tools, whose types differ, are JSON strings."""
    history, turn = _messages(step), step.turn
    assert isinstance(turn, dict)  # `_messages` has refused text
    return {
        "prompt": [_message(message) for message in history],
        "completion": [_message(turn)],
        "tools": json.dumps(step.tools or [], ensure_ascii=False),
    }


def _message(message: Message) -> dict[str, Any]:
    calls = [
        {
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in message.get("tool_calls", [])
    ]
    kept = {key: message[key] for key in _KEPT if key in message}
    return {"role": message["role"], "content": message["content"], "tool_calls": calls or None, **kept}
