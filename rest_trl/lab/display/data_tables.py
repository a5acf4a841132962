"""Tables and histograms of a data set as training sees it, for the terminal."""

from collections.abc import Iterator, Sequence
from statistics import median

import torch
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from ...data.examples import MAX_REASONS, Example
from ...data.figures import Summary, bins
from ...data.loading import Prepared
from ...data.mixture import PartReport
from ...regions.partition import partition
from .terminal import colored_completion, legend


_BAR = 40  # characters of the longest bar
_PROMPT_START, _PROMPT_END = 400, 800  # characters: tools stand at the start of a prompt, and the question at its end


def show_sources(prepared: Prepared) -> Iterator[RenderableType]:
    """Say what was read as what, and what was skipped and why."""
    table = Table("source", "read as", "rows", "of use", "steps", "skipped", title="What was read")
    for report in prepared.reports:
        numbers = (report.rows, report.rows_kept, report.examples, len(report.malformed))
        table.add_row(Text(report.name), Text(report.schema), *(f"{number:,}" for number in numbers))
    yield table
    for report in prepared.reports:
        yield from _reasons(f"{report.name}: skipped", report.malformed)
        yield from _reasons(f"{report.name}: golds with calls and no tools in their row", report.without_tools)
        yield from _reasons(f"{report.name}: golds that call a tool which is not declared", report.undeclared)
        unknown = f"{report.name}: golds with parameters that their tool does not declare"
        yield from _reasons(unknown, report.unknown_parameters)
        for note, number in report.notes.items():
            yield Text(f"{report.name}: {number:,} x {note}")
    yield from _reasons(
        f"Prompts over {prepared.max_prompt_length:,} tokens, dropped",
        [f"{example.source}, step {example.step}" for example in prepared.too_long],
    )


def show_summary(summary: Summary, limit: int, completion_limit: int | None, syntax: str) -> Iterator[RenderableType]:
    """Show lengths, tools and golds; `limit` and `completion_limit` are in tokens."""
    yield histogram("Tokens of a prompt", summary.prompt_lengths, limit)
    yield histogram("Tokens of a gold completion", summary.solution_lengths, completion_limit)
    total = sum(summary.tools.values())
    table = Table("tools", "rows", "share", title="Tools that a row declares in a column")
    for number, rows in sorted(summary.tools.items()):
        table.add_row(str(number), f"{rows:,}", f"{rows / total:.1%}")
    yield table
    counts = f"{summary.with_calls:,} with calls, {summary.without_calls:,} without"
    yield Text(f"Golds in the syntax {syntax}: {counts}, {len(summary.unreadable):,} unreadable")
    yield from _reasons("Unreadable golds, which give no reward", summary.unreadable)


def show_examples(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, syntax: str
) -> Iterator[RenderableType]:
    """Show prompts, and their golds with the regions in colour."""
    if examples:
        yield Group(Text("Golds, their regions in colour:"), legend())
    for example in examples:
        yield Rule(Text(f"{example.source}, step {example.step}"))
        prompt, kept = example.prompt, _PROMPT_START + _PROMPT_END
        if len(prompt) > kept:
            left_out = f"\n… {len(prompt) - kept:,} characters …\n"
            prompt = prompt[:_PROMPT_START] + left_out + prompt[-_PROMPT_END:]
        yield Text(prompt.rstrip("\n"), style="dim")
        ids = tokenizer(example.solution, add_special_tokens=False)["input_ids"]
        region_ids = partition(torch.tensor([ids]), tokenizer, syntax)[0].tolist()
        yield colored_completion(ids, region_ids, tokenizer)


def show_mixture(reports: Sequence[PartReport]) -> Table:
    """Say what each part of a mixture was drawn from."""
    columns = ("part", "read as", "rows", "malformed", "same question", "questions of tests", "train", "test")
    table = Table(*columns, title="Mixture, in rows and steps")
    for report in reports:
        numbers = (report.rows, len(report.malformed), report.same_query, report.leaks, report.drawn, report.test)
        table.add_row(Text(report.name), Text(report.schema), *(f"{number:,}" for number in numbers))
    return table


def histogram(title: str, values: list[int], limit: int | None) -> Text:
    """Draw a distribution of lengths; those over `limit` are counted apart and drawn in red."""
    if not values:
        return Text(f"{title}: none")
    ordered = sorted(values)
    # Nearest rank: at least 95 % of the lengths are no longer than that.
    middle, high = median(ordered), ordered[-(-95 * len(ordered) // 100) - 1]
    text = Text(f"{title}: median {middle:,.10g}, 95% {high:,}, longest {ordered[-1]:,}", style="bold")
    if limit is not None:
        share = sum(value > limit for value in values) / len(values)
        text.append(f"; over {limit:,}: {share:.1%}", style="red" if share else "green")
    found = bins(values)
    width = len(f"{found[-1][1]:,}")
    most = max(count for _, _, count in found)
    for first, last, count in found:
        bar = "█" * -(-_BAR * count // most)
        style = "red" if limit is not None and first > limit else "cyan"
        text.append(f"\n{first:>{width},} to {last:>{width},} ", style="not bold")
        text.append(bar, style=f"not bold {style}")
        text.append(f" {count:,}", style="not bold")
    return text


def _reasons(title: str, reasons: Sequence[str]) -> Iterator[Text]:
    if reasons:
        shown = [f"  {reason}" for reason in reasons[:MAX_REASONS]]
        more = [f"  and {len(reasons) - MAX_REASONS:,} more"] if len(reasons) > MAX_REASONS else []
        yield Text("\n".join([f"{title}: {len(reasons):,}", *shown, *more]), style="yellow")
