"""The interface of a benchmark, which asks a model questions and scores the answers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from transformers import PreTrainedTokenizerBase

from .generation import Generator, complete
from .samples import Completion, Sample, Score
from .store import CompletionStore


@dataclass(frozen=True)
class Published:
    """
    A figure of the paper, in percent.

    Args:
        figure (`str`):
            `"overall"`, or the name of one of the benchmark's groups.
        model, method (`str`):
            What was trained, and how.
        low (`float`):
            The figure, or the lower one where the paper gives two.
        high (`float`, *optional*):
            The higher one.
    """

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
    def from_options(
        cls, options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, resources: ExitStack
    ) -> Self:
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

        Args:
            generator ([`Generator`]):
                Runs the model.
            store ([`CompletionStore`]):
                Keeps the completions.

        Returns:
            `list[Score]`: one for every sample, including those without a completion.
        """

    @abstractmethod
    def overall(self, scores: Sequence[Score], metric: str) -> float | str:
        """
        The benchmark's own overall figure, or the reason why there is none.

        Args:
            scores (`Sequence[Score]`):
                All scores.
            metric (`str`):
                Name of the score.

        Returns:
            `float` or `str`
        """

    def groups(self, scores: Sequence[Score], metric: str) -> dict[str, tuple[float, list[Score]]]:
        """
        Figures over several subsets, such as BFCL's `multi_turn`.

        Args:
            scores (`Sequence[Score]`):
                All scores.
            metric (`str`):
                Name of the score.

        Returns:
            `dict[str, tuple[float, list[Score]]]`: by the group's name, its figure and the scores behind it. A
            group is left out if some of its samples were not run.
        """
        return {}

    @classmethod
    def protocol_differences(cls, summary: Mapping[str, Any]) -> list[str]:
        """
        How a run differs from the paper's on this benchmark.

        Args:
            summary (`Mapping[str, Any]`):
                Summary of the run.

        Returns:
            `list[str]`: one clause for each difference.
        """
        return []

    @classmethod
    def setup(cls, python: str | None) -> Path:
        """
        Install what the benchmark needs, once.

        Args:
            python (`str`, *optional*):
                The Python to install with, by default the running one.

        Returns:
            `Path`: what was made.

        Raises:
            ValueError: if there is nothing to install.
        """
        raise ValueError(f"{cls.name} needs no setup")


class SingleTurnBenchmark(Benchmark):
    """
    A benchmark of independent prompts, whose overall figure is the mean score of all samples.

    A subclass scores one sample in [`score`](SingleTurnBenchmark.score).

    Args:
        samples (`Sequence[Sample]`):
            The samples.
        settings (`dict[str, Any]`, *optional*):
            See [`Benchmark`].
        notes (`list[str]`, *optional*):
            See [`Benchmark`].
    """

    def __init__(
        self, samples: Sequence[Sample], settings: dict[str, Any] | None = None, notes: list[str] | None = None
    ) -> None:
        self.samples = samples
        self.settings = settings or {}
        self.notes = notes or []

    @abstractmethod
    def score(self, sample: Sample, completion: Completion | None) -> Score:
        """
        Score one sample.

        Args:
            sample ([`Sample`]):
                The sample.
            completion ([`Completion`] or `None`):
                Its completion. A sample without one is wrong, see [`~rest_trl.lab.evaluation.samples.not_generated`].

        Returns:
            [`Score`]
        """

    def run(self, generator: Generator, store: CompletionStore) -> list[Score]:
        """See [`Benchmark.run`]."""
        completions = complete({sample.id: sample.prompt for sample in self.samples}, generator, store, self.name)
        return [self.score(sample, completions.get(sample.id)) for sample in self.samples]

    def overall(self, scores: Sequence[Score], metric: str) -> float | str:
        """See [`Benchmark.overall`]."""
        return sum(score.scores[metric] for score in scores) / len(scores)
