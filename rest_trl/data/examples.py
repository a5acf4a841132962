"""Examples made from sources, and a report of how the rows were read and what was left out."""

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from accelerate.utils import tqdm

from ..tool_calls.declared import OPENING, json_schemas
from .masking import mask_step
from .messages import MalformedRowError, Row, Step
from .rendering import LOST_TEXT_NOTE, StepRenderer, loses_text
from .row_schemas import FIRST_ROWS, detect_schema
from .sources import Source


MAX_REASONS = 5


class Example(NamedTuple):
    """One training example."""

    prompt: str  # what the model reads
    solution: str  # what it should write
    source: str  # `name#row`; the examples of one dialogue share it
    step: int  # number of the step in its row, from 0
    given: Step  # what `prompt` and `solution` were rendered from

    def columns(self) -> dict[str, Any]:
        """
        The columns that training reads. `tools`, a JSON string, is there only if the row declares tools; `solution` is
        the text of the gold, or a mapping of this `text` and its `alternatives`, a JSON string.
        """
        solution: Any = self.solution
        if self.given.alternatives is not None:
            solution = {"text": self.solution, "alternatives": json.dumps(self.given.alternatives)}
        columns = {"prompt": self.prompt, "solution": solution, "source": self.source, "step": self.step}
        return columns | ({"tools": json.dumps(self.given.tools)} if self.given.tools else {})


@dataclass
class SourceReport:
    """What became of the rows of a source. Each is counted in `rows_kept` or has its reason in `malformed`."""

    name: str
    schema: str  # what its rows were read as, and how that was recognized
    rows: int
    rows_kept: int = 0  # rows that give at least one example
    examples: int = 0  # that these rows give
    malformed: list[str] = field(default_factory=list)  # place and reason of each row or step that was skipped
    without_tools: list[str] = field(default_factory=list)  # places of gold calls in rows that declare no tools
    undeclared: list[str] = field(default_factory=list)  # places and names of called tools that their row lacks
    unknown_parameters: list[str] = field(default_factory=list)  # the same of parameters that their tool lacks
    notes: Counter[str] = field(default_factory=Counter)  # how often something about the reading of a row applies

    def summary(self) -> str:
        """How the rows were read and how many were kept, in one line."""
        kept = f"{self.rows} rows, of which {self.rows_kept} give {self.examples} steps"
        return f"{self.name}: read as {self.schema}: {kept}"

    def warnings(self) -> list[str]:
        """What a user may have to fix, one line for each kind of problem."""
        lines = []
        if self.malformed:
            lines.append(
                f"{self.name}: skipped {len(self.malformed)} malformed examples and kept {self.examples}: "
                f"{first_reasons(self.malformed)}"
            )
        unknown = [(self.without_tools, "though their row declares no tools")]
        unknown.append((self.undeclared, "that their row does not declare"))
        told = [f"{len(places)} {words} ({first_reasons(places, 2)})" for places, words in unknown if places]
        if told:
            lines.append(
                f"{self.name}: of {self.examples} golds some call a tool, {', and '.join(told)}: the policy does not "
                "read of such tools. Give them in the column tools, unless the prompt shows them"
            )
        if self.unknown_parameters:
            lines.append(
                f"{self.name}: of {self.examples} golds {len(self.unknown_parameters)} give parameters that their "
                f"tool does not declare ({first_reasons(self.unknown_parameters, 2)}): tool_schema_reward takes them "
                "for wrong. Correct these rows, or the schemas of their tools"
            )
        return lines

    def note_calls(self, step: Step, place: str) -> None:
        """Note the calls of a gold turn whose tools, or parameters, the row does not declare."""
        called = [] if isinstance(step.turn, str) else step.turn.get("tool_calls", [])
        if called and not step.tools:
            self.without_tools.append(place)
            return
        if not called:
            return
        declared = {
            tool["function"]["name"]: tool["function"]["parameters"] for tool in json_schemas(step.tools) or []
        }
        names: dict[str, None] = {}
        unknown: dict[str, None] = {}
        for function in (call["function"] for call in called):
            schema = declared.get(function["name"])
            if schema is None:
                names[function["name"]] = None
            elif not schema.get("additionalProperties") and OPENING.isdisjoint(schema):
                known = schema.get("properties", {})
                unknown |= {f"{function['name']}({name})": None for name in function["arguments"] if name not in known}
        if names:
            self.undeclared.append(f"{place}: {', '.join(names)}")
        if unknown:
            self.unknown_parameters.append(f"{place}: {', '.join(unknown)}")


def first_reasons(reasons: list[str], number: int = MAX_REASONS) -> str:
    """The first reasons and how many more there are, in one line."""
    more = len(reasons) - number
    return "; ".join(reasons[:number]) + (f"; and {more} more" if more > 0 else "")


def render_source(
    source: Source, renderer: StepRenderer, strict: bool = False, masks: Collection[str] = (), seed: int = 0
) -> tuple[list[Example], SourceReport]:
    """Make examples from the rows of a source."""
    examples: list[Example] = []
    steps_of, report = read_steps(source)

    def skip(place: str, error: MalformedRowError) -> None:
        if strict:
            raise ValueError(
                f"{source.name}, {place}: {error}. Correct the row, or set strict to False to skip such rows."
            ) from error
        report.malformed.append(f"{place}: {error}")

    for index, raw in enumerate(tqdm(source.rows, desc=f"Preparing {source.name}")):
        before = len(examples)
        try:
            steps = steps_of(raw)
        except MalformedRowError as error:
            skip(f"row {index}", error)
            continue
        for number, step in enumerate(steps):
            place = f"row {index}, step {number}"
            report.notes.update(step.notes)  # they tell how the row was read, whether or not this step can be rendered
            masked = mask_step(step, masks, f"{seed} {source.name}#{index}")
            try:
                prompt, solution = renderer.render(masked)
            except MalformedRowError as error:
                skip(place, error)
                continue
            examples.append(Example(prompt, solution, f"{source.name}#{index}", number, masked))
            if loses_text(masked.turn, solution):
                report.notes[LOST_TEXT_NOTE] += 1
            if masks and masked is step:
                report.notes["step without tools in a column, so that none is masked"] += 1
            report.note_calls(step, place)
        report.rows_kept += len(examples) > before
    report.examples = len(examples)
    return examples, report


def read_steps(source: Source) -> tuple[Any, SourceReport]:
    """A function that turns an element of `source.rows` into its steps, and a report with the source's schema."""
    if len(source.rows) == 0:
        raise ValueError(f"{source.name} is empty: it has no rows to train on.")
    first: list[Row] = []
    reasons: list[str] = []
    for index, raw in enumerate(source.rows):
        try:
            first.append(source.row(raw))
        except MalformedRowError as error:
            reasons.append(f"row {index}: {error}")  # the caller reports it when it reads the row
            continue
        if len(first) == FIRST_ROWS:
            break
    if not first:
        raise ValueError(f"{source.name} has no row that can be read: {first_reasons(reasons)}")
    schema, told_by = detect_schema(source.columns, first, source.name)
    return (
        lambda raw: schema.steps(source.row(raw)),
        SourceReport(source.name, f"{schema.description} ({told_by})", len(source.rows)),
    )
