"""The records that all benchmarks share: samples, their completions, and the scores of these."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


NOT_GENERATED = "missing: not generated"


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
class Completion:
    """
    What a model wrote for a prompt.

    Args:
        id (`str`):
            Id of the [`Sample`]. For a step of a dialogue, turn and step follow it: `multi_turn_base_0/2.1`.
        completion_ids (`list[int]`):
            Sampled token ids, the end-of-sequence token included where there was one.
        text (`str`):
            Their text, special tokens included, end-of-sequence token excluded.
        truncated (`bool`):
            Whether generation stopped because no more tokens were allowed.
    """

    id: str
    completion_ids: list[int]
    text: str
    truncated: bool


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
    """
    The score of a sample without a completion: wrong by every metric.

    Args:
        sample ([`Sample`]):
            The sample.
        metrics (`Iterable[str]`):
            Names of the benchmark's metrics.

    Returns:
        [`Score`]
    """
    return Score(sample.id, sample.subset, sample.cluster, dict.fromkeys(metrics, 0.0), NOT_GENERATED, [], [], "")
