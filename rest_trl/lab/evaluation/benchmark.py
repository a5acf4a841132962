"""The interface of a benchmark, which asks a model questions and scores the answers, and the list of benchmarks."""

import importlib
import inspect
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from ...spelling import did_you_mean
from ...tool_calls import SYNTAXES
from .generation import Completion, CompletionStore, Generator, Tokenizer, complete


NOT_GENERATED = "missing: not generated"


def json_object(text: str) -> dict[str, Any]:
    """Read the value of an option that is a JSON object."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text} is not a JSON object")
    return value


def positive(text: str) -> int:
    """Read the value of an option that is a positive whole number."""
    value = int(text)
    if value < 1:
        raise ValueError(f"{text} is not positive")
    return value


# Options that several benchmarks share.
PROMPT_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "tool_call_syntax": {
        "help": f"{', '.join(sorted(SYNTAXES))}, or the dotted path of your own; default: the one that the chat "
        "template shows, and for API-Bank's paper form rlla"
    },
    "chat_template_kwargs": {"type": json_object, "help": "JSON, such as '{\"enable_thinking\": false}'"},
}


@dataclass(frozen=True)
class Sample:
    """
    One question of a benchmark.

    Args:
        id (`str`):
            Its name, unique in the benchmark and the same for every model. Paired comparisons match samples by it.
        subset (`str`):
            Level or category. An accuracy is reported for each subset.
        cluster (`str`):
            Name of the group of samples that are not independent of each other, such as those of one dialogue.
        prompt (`str`):
            The rendered prompt, up to where the completion begins.
        gold (`Any`):
            JSON value that the benchmark's scorer compares with.
    """

    id: str
    subset: str
    cluster: str
    prompt: str
    gold: Any


@dataclass(frozen=True)
class Score:
    """
    How a sample was answered: one line of `samples.jsonl`.

    Args:
        id, subset, cluster (`str`):
            See [`Sample`].
        scores (`dict[str, float]`):
            0 or 1 by the name of each metric.
        why (`str`, *optional*):
            Why the answer is wrong by the benchmark's first metric, `None` if it is right.
        calls (`list`):
            The calls that were read, as JSON values.
        completion_ids (`list[int]`):
            See [`Completion`]. For a dialogue, the ids of all steps.
        text (`str`):
            See [`Completion`].
        measures (`dict[str, float]`):
            Any number by the name of each measure of the benchmark.
    """

    id: str
    subset: str
    cluster: str
    scores: dict[str, float]
    why: str | None
    calls: list[Any]
    completion_ids: list[int]
    text: str
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def missing(self) -> bool:
        """Whether there was no completion to score."""
        return self.why == NOT_GENERATED


def not_generated(sample: Sample, metrics: Iterable[str]) -> Score:
    """The score of a sample without a completion: wrong by every metric."""
    return Score(sample.id, sample.subset, sample.cluster, dict.fromkeys(metrics, 0.0), NOT_GENERATED, [], [], "")


def mean_score(scores: Sequence[Score], metric: str) -> float:
    """The share of samples that are right by a metric."""
    return sum(score.scores[metric] for score in scores) / len(scores)


@dataclass(frozen=True)
class Published:
    """A figure of the paper, in percent: `overall` or that of a group; `high` where the paper gives a range."""

    figure: str
    model: str
    method: str
    low: float
    high: float | None = None


class Benchmark(ABC):
    """
    A benchmark that is ready to be run with a model.

    A subclass holds everything that the rest of the package needs to know about a benchmark. A new benchmark is
    therefore one file: `NAME_benchmark.py` in this folder, or a module of your own whose class you name by its dotted
    path.

    Attributes:
        name (`str`):
            Its name on the command line and in the files of a run.
        metrics (`tuple[str, ...]`):
            Names of its scores. The first one is reported where there is room for one.
        measures (`tuple[str, ...]`, *optional*, defaults to `()`):
            Names of further numbers per sample that are not scores, such as the number of steps. Their means over the
            samples with a completion are reported.
        options (`Mapping[str, Mapping[str, Any]]`, *optional*, defaults to `{}`):
            The options that it adds to the command line, by name, with the keyword arguments of
            `argparse.ArgumentParser.add_argument`.
        protocol (`tuple[str, ...]`, *optional*, defaults to `()`):
            The settings in which two runs must agree, so that a difference between them comes from the models.
        published (`tuple[Published, ...]`, *optional*, defaults to `()`):
            The paper's figures, for `rest-trl compare --published`. It finds benchmarks of this package only: a run
            does not record the dotted path of another one.
        published_metric (`str`, *optional*):
            The metric of the paper's figures.
        needs_setup (`bool`, *optional*, defaults to `False`):
            Whether something must be installed by [`setup`](Benchmark.setup) before the first run.
        settings (`dict[str, Any]`):
            What the prompts depend on besides the model. An interrupted run continues only with the same settings.
        notes (`list[str]`):
            What a reader of the figures must know about the protocol.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    measures: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    protocol: ClassVar[tuple[str, ...]] = ()
    published: ClassVar[tuple[Published, ...]] = ()
    published_metric: ClassVar[str] = ""
    needs_setup: ClassVar[bool] = False
    settings: dict[str, Any]
    notes: list[str]

    @classmethod
    @abstractmethod
    def from_options(cls, options: Mapping[str, Any], tokenizer: Tokenizer, resources: ExitStack) -> Self:
        """
        The benchmark that the command line asks for.

        Args:
            options (`Mapping[str, Any]`):
                The values of the class's `options` (`None` where one was not given) and `limit`, the number of samples
                to stop after.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
                The model's tokenizer, which renders the prompts.
            resources (`ExitStack`):
                Closes what the benchmark opens, after the run.

        Returns:
            [`Benchmark`]

        Raises:
            ValueError, OSError: if an option or the data cannot be used.
        """

    @abstractmethod
    def run(self, generator: Generator, store: CompletionStore) -> list[Score]:
        """
        Generate the completions that the store does not have yet, and score all samples.

        Returns a score for every sample, including those without a completion.
        """

    def overall(self, scores: Sequence[Score], metric: str) -> float | str:
        """The benchmark's overall figure, by default the share of right samples, or the reason why there is none."""
        return mean_score(scores, metric)

    def groups(self, scores: Sequence[Score], metric: str) -> dict[str, tuple[float, list[Score]]]:
        """
        Figures over several subsets, such as BFCL's `multi_turn`: by name, the figure and the scores that it is made
        of.

        A group is left out if some of its samples were not run.
        """
        return {}

    @classmethod
    def protocol_differences(cls, summary: Mapping[str, Any]) -> list[str]:
        """How a run with that summary differs from the paper's on this benchmark: one clause for each difference."""
        return []

    @classmethod
    def setup(cls, python: str | None) -> Path:
        """Install what the benchmark needs, once, with that Python, by default the running one; returns its place."""
        raise ValueError(f"{cls.name} needs no setup")


class SingleTurnBenchmark(Benchmark):
    """A benchmark of independent prompts. A subclass scores one sample in [`score`](SingleTurnBenchmark.score)."""

    def __init__(
        self, samples: Sequence[Sample], settings: dict[str, Any] | None = None, notes: list[str] | None = None
    ) -> None:
        self.samples = samples
        self.settings = settings or {}
        self.notes = notes or []

    @abstractmethod
    def score(self, sample: Sample, completion: Completion) -> Score:
        """Score one sample. One without a completion is wrong by every metric, and this is not called for it."""

    def run(self, generator: Generator, store: CompletionStore) -> list[Score]:
        completions = complete({sample.id: sample.prompt for sample in self.samples}, generator, store, self.name)
        return [
            self.score(sample, completions[sample.id])
            if sample.id in completions
            else not_generated(sample, self.metrics)
            for sample in self.samples
        ]


def find_benchmarks() -> dict[str, type[Benchmark]]:
    """
    The benchmarks of this package by name: the complete classes with a `name` in its `*_benchmark` modules.

    Example:

    ```python
    >>> sorted(find_benchmarks())
    ['api_bank', 'bfcl_v3', 'bfcl_v4', 'data', 'tiny', 'tiny/agents', 'tiny/arguments', 'tiny/calls', 'tiny/decides']

    ```
    """
    found: dict[str, type[Benchmark]] = {}
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if info.name.endswith("_benchmark"):
            module = importlib.import_module(f"{__package__}.{info.name}")
            found |= {
                value.name: value
                for value in vars(module).values()
                if isinstance(value, type)
                and issubclass(value, Benchmark)
                and "name" in vars(value)
                and not inspect.isabstract(value)
            }
    return found


def get_benchmark(name: str) -> type[Benchmark]:
    """The benchmark of that name or dotted path; a `ValueError` if there is none, or what is there is incomplete."""
    known = find_benchmarks()
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(
            f"unknown benchmark {name!r}: {did_you_mean(name, known)}choose one of {', '.join(sorted(known))}, or "
            "give the dotted path of your own, e.g. my_package.my_module.MyBenchmark"
        )
    try:
        benchmark = vars(importlib.import_module(module))[attribute]
    except (ImportError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"benchmark {name!r} cannot be imported ({type(error).__name__}: {error})") from error
    if not (isinstance(benchmark, type) and issubclass(benchmark, Benchmark)):
        raise ValueError(f"{name!r} is not a subclass of rest_trl.lab.evaluation.benchmark.Benchmark")
    lacking = sorted(benchmark.__abstractmethods__)
    lacking += [attribute for attribute in ("name", "metrics") if attribute not in dir(benchmark)]
    if lacking:
        raise ValueError(f"{name!r} is not a complete benchmark: it lacks {', '.join(lacking)}")
    return benchmark
