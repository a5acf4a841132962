"""Benchmarks of single steps with gold completions: your own data, and the held-out parts of the embedded worlds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ...tool_calls import ParsedCompletion, detect_syntax, get_syntax
from ..tiny import TINY, TINY_DATASETS, generate_steps
from .benchmark import PROMPT_OPTIONS, Sample, Score, SingleTurnBenchmark, mean_score
from .generation import Completion, Tokenizer


if TYPE_CHECKING:
    from ...rewards.tool_schemas import ToolSchemas  # takes seconds to import

WITH_CALLS, WITHOUT_CALLS = "golds with calls", "golds without"


class GoldCalls(SingleTurnBenchmark):
    """
    Whether a completion makes exactly the calls of its gold completion, which is a text in the same syntax, or one
    with alternatives, see [`~rest_trl.rewards.reading.parse_gold`].

    Any text without a call is as good as a gold without one, so samples with and without calls in the gold are also
    reported apart. A completion that is unreadable or was cut off is never exact.
    """

    metrics: ClassVar[tuple[str, ...]] = ("exact",)

    def __init__(
        self,
        samples: Sequence[Sample],
        settings: dict[str, Any] | None = None,
        notes: list[str] | None = None,
        tool_call_syntax: str = "hermes",
        tools: "Mapping[str, ToolSchemas]" = MappingProxyType({}),
    ) -> None:
        from ...rewards.reading import parse_gold

        super().__init__(samples, settings, notes)
        self._syntax_name, self._syntax, self._tools = tool_call_syntax, get_syntax(tool_call_syntax), tools
        self._golds = {
            sample.id: parse_gold(tool_call_syntax, sample.gold, tools.get(sample.id)) for sample in samples
        }
        unreadable = [(id, gold.errors[0]) for id, gold in self._golds.items() if gold.errors]
        if unreadable:
            raise ValueError(
                f"{len(unreadable)} of {len(samples)} golds cannot be read as {tool_call_syntax}, the first is "
                f"{unreadable[0][0]} ({unreadable[0][1]}): name their syntax with --tool_call_syntax"
            )

    def _parse(self, id: str, text: str) -> ParsedCompletion:
        parsed = self._syntax.parse(text)
        return self._tools[id].typed(parsed) if id in self._tools else parsed

    def score(self, sample: Sample, completion: Completion) -> Score:
        """Score one sample by `exact`, and where it is a metric by `format`: the blocks of the gold, in its order."""
        from ...rewards.scoring import follows_layout, is_exact

        parsed, gold = self._parse(sample.id, completion.text), self._golds[sample.id]
        exact = is_exact(parsed, gold) and not completion.truncated
        scores = {"exact": float(exact)}
        if "format" in self.metrics:
            scores["format"] = float(follows_layout(parsed, gold, self._syntax_name) and not completion.truncated)
        why = None
        if not exact:
            names, gold_names = ([call.name for call in calls] for calls in (parsed.calls, gold.calls))
            why = f"unreadable: {parsed.errors[0]}" if parsed.errors else f"calls {names}, gold {gold_names}"
            why = f"truncated; {why}" if completion.truncated else why
        calls = [{"name": call.name, "arguments": call.arguments} for call in parsed.calls]
        ids, text = completion.completion_ids, completion.text
        return Score(sample.id, sample.subset, sample.cluster, scores, why, calls, ids, text)

    def groups(self, scores: Sequence[Score], metric: str) -> dict[str, tuple[float, list[Score]]]:
        """See [`Benchmark.groups`]: golds with and without calls."""
        return _grouped(scores, metric, lambda score: [kind_of_gold(self._golds[score.id])])


class OwnData(GoldCalls):
    """A data set of any shape that training takes, read and rendered as in training; a row is a cluster."""

    name = "data"
    metrics = ("exact", "format")
    protocol = ("data", "split", "test_size", "chat_template_kwargs")
    options = {
        "data": {"help": "own data: file, directory or Hub id, as in training; alone it stands for --benchmark data"},
        "split": {"help": "own data: the split (default train, which a single file is; with --test_size, test)"},
        "test_size": {"type": float, "help": "own data: the rows that train held out with the same --test_size"},
        **PROMPT_OPTIONS,
    }

    @classmethod
    def from_options(cls, options: Mapping[str, Any], tokenizer: Tokenizer, resources: ExitStack) -> Self:
        from ...data import load_rest_dataset
        from ...rewards.reading import parse_gold
        from ...rewards.tool_schemas import read_tools

        if options["data"] is None:
            raise ValueError("--benchmark data needs --data, a file, a directory or a Hub id")
        if options["data"] in TINY_DATASETS:
            raise ValueError(f"{options['data']} comes with the package: give --benchmark instead of --data")
        test_size, limit, template_kwargs = (options[name] for name in ("test_size", "limit", "chat_template_kwargs"))
        split = options["split"] or ("train" if test_size is None else "test")
        rows = load_rest_dataset(
            options["data"], tokenizer, split=split, test_size=test_size, chat_template_kwargs=template_kwargs
        )
        syntax = options["tool_call_syntax"] or detect_syntax(tokenizer)
        samples = [
            Sample(f"{source}/{step}", kind_of_gold(parse_gold(syntax, gold)), source, prompt, gold)
            for source, step, prompt, gold in zip(
                rows["source"], rows["step"], rows["prompt"], rows["solution"], strict=True
            )
        ]
        tools: dict[str, ToolSchemas] = {}
        if get_syntax(syntax).untyped and "tools" in rows.column_names:  # they tell strings from numbers
            declared = zip(samples, rows["tools"], strict=True)
            tools = {sample.id: read_tools(of_row) for sample, of_row in declared if of_row is not None}
        settings = {name: options[name] for name in ("data", "test_size", "limit")}
        settings |= {"split": split, "tool_call_syntax": syntax, "chat_template_kwargs": template_kwargs or {}}
        limited = [f"only the first {limit} steps"] if limit is not None else []
        notes = [*limited, f"golds and completions read as {syntax}"]
        return cls(samples[:limit], settings, notes, syntax, tools)

    def groups(self, scores: Sequence[Score], metric: str) -> dict[str, tuple[float, list[Score]]]:
        """See [`Benchmark.groups`]: for each tool, the samples whose gold calls it, the most frequent tool first."""
        return _grouped(scores, metric, lambda score: {f"tool {call.name}" for call in self._golds[score.id].calls})


def kind_of_gold(gold: ParsedCompletion) -> str:
    """Whether a gold has calls, as the name of a subset or group."""
    return WITH_CALLS if gold.calls else WITHOUT_CALLS


def _grouped(
    scores: Sequence[Score], metric: str, names_of: Callable[[Score], Iterable[str]]
) -> dict[str, tuple[float, list[Score]]]:
    members: dict[str, list[Score]] = {}
    for score in scores:
        for name in names_of(score):
            members.setdefault(name, []).append(score)
    order = sorted(members, key=lambda name: (-len(members[name]), name))
    return {name: (mean_score(members[name], metric), members[name]) for name in order}


def tiny_samples(tokenizer: Tokenizer, size: int = 512, seed: int = 0, name: str = TINY) -> list[Sample]:
    """Draw the first held-out steps of one of the embedded data sets. The steps of one dialogue form a cluster."""
    from ..tiny.tokenization import render_prompt

    samples, dialogue, request = [], -1, None
    for index, step in enumerate(islice(generate_steps(name, "test", seed), size)):
        # Steps of a dialogue follow each other and begin with the same request.
        if step.messages[0] != request:
            dialogue, request = dialogue + 1, step.messages[0]
        samples.append(
            Sample(f"tiny_{index}", step.kind, f"dialogue_{dialogue}", render_prompt(step, tokenizer), step.solution)
        )
    return samples


class TinyWorld(GoldCalls):
    """Held-out steps of the embedded tool world."""

    name = TINY

    @classmethod
    def from_options(cls, options: Mapping[str, Any], tokenizer: Tokenizer, resources: ExitStack) -> Self:
        limit = options["limit"]
        limited = [f"only the first {limit} samples"] if limit is not None else []
        notes = [*limited, "synthetic: says nothing about real tools"]
        return cls(tiny_samples(tokenizer, name=cls.name)[:limit], {"limit": limit}, notes)


class TinyDecides(TinyWorld):
    """Held-out requests for a call whose values must be worked out in the reasoning."""

    name = f"{TINY}/decides"


class TinyCalls(TinyWorld):
    """Held-out requests for two to four calls."""

    name = f"{TINY}/calls"


class TinyArguments(TinyWorld):
    """Held-out requests for one call with eight arguments."""

    name = f"{TINY}/arguments"
