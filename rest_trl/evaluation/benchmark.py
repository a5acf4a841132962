"""What a benchmark is to the rest: something that asks, and scores the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .generation import Generator, complete
from .samples import Completion, Sample, Score
from .store import CompletionStore


class Benchmark(Protocol):
    """
    A benchmark, ready for a model.

    Attributes:
        name (`str`):
            Its name on the command line.
        metrics (`tuple[str, ...]`):
            Names of its scores, the one to report first.
        settings (`dict[str, Any]`):
            What its prompts depend on, beside the model.
        notes (`list[str]`):
            What a reader of the figures must know of the protocol.
    """

    name: str
    metrics: tuple[str, ...]
    settings: dict[str, Any]
    notes: list[str]

    def run(self, generator: Generator, store: CompletionStore) -> list[Score]:
        """
        Ask what has not been asked yet, and score everything.

        Args:
            generator ([`Generator`]):
                Runs the model.
            store ([`CompletionStore`]):
                Keeps the completions.

        Returns:
            `list[Score]`: one for every sample, also for those without a completion.
        """
        ...

    def overall(self, scores: Sequence[Score], metric: str) -> float | str:
        """
        The benchmark's own overall figure, or why there is none.

        Args:
            scores (`Sequence[Score]`):
                All scores.
            metric (`str`):
                Name of the score.

        Returns:
            `float` or `str`
        """
        ...

    def groups(self, scores: Sequence[Score], metric: str) -> dict[str, tuple[float, list[Score]]]:
        """
        Figures of the benchmark over several subsets, such as BFCL's `multi_turn`.

        Args:
            scores (`Sequence[Score]`):
                All scores.
            metric (`str`):
                Name of the score.

        Returns:
            `dict[str, tuple[float, list[Score]]]`: by name, the figure and the scores that it is of; those only of
            which all samples were run.
        """
        ...


@dataclass
class SingleTurnBenchmark:
    """
    A benchmark of independent prompts, see [`Benchmark`]; its overall figure is the share of all samples.

    Args:
        name, metrics, settings, notes:
            See [`Benchmark`].
        samples (`Sequence[Sample]`):
            The samples.
        score (`Callable[[Sample, Completion | None], Score]`):
            Scores one of them; without a completion it is missing.
    """

    name: str
    metrics: tuple[str, ...]
    samples: Sequence[Sample]
    score: Callable[[Sample, Completion | None], Score]
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def run(self, generator: Generator, store: CompletionStore) -> list[Score]:
        """See [`Benchmark.run`]."""
        completions = complete({sample.id: sample.prompt for sample in self.samples}, generator, store, self.name)
        return [self.score(sample, completions.get(sample.id)) for sample in self.samples]

    def overall(self, scores: Sequence[Score], metric: str) -> float | str:
        """See [`Benchmark.overall`]."""
        return sum(score.scores[metric] for score in scores) / len(scores)

    def groups(self, scores: Sequence[Score], metric: str) -> dict[str, tuple[float, list[Score]]]:
        """See [`Benchmark.groups`]: none."""
        return {}
