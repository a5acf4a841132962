"""Benchmarks of agents: dialogues with a TRL environment."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Self

from transformers import PreTrainedTokenizerBase

from ...tool_calls import detect_syntax, get_syntax
from ..tiny import TINY_AGENTS
from ..tiny.agents import OutcomeHelpDesk, generate_tasks
from .benchmark import Benchmark
from .dialogues import Dialogue
from .generation import Generator, complete
from .options import PROMPT_OPTIONS, positive
from .samples import NOT_GENERATED, Completion, Score
from .store import CompletionStore


@dataclass(frozen=True)
class AgentTask:
    """
    A task of a benchmark of agents.

    Args:
        id, subset (`str`):
            See [`~rest_trl.lab.evaluation.samples.Sample`].
        row (`dict[str, Any]`):
            The arguments of the environment's `reset`, among them `prompt`, a list of messages.
    """

    id: str
    subset: str
    row: dict[str, Any]


class AgentBenchmark(Benchmark):
    """
    Dialogues with a TRL environment, run as in training.

    A subclass has a `name`, an [`environment`](AgentBenchmark.environment) and its [`tasks`](AgentBenchmark.tasks). A
    dialogue is right if the environment's `get_reward` gives 1 at its end. The measure `steps` counts the turns of the
    model, `invalid` the calls that could not be read or carried out, and `tokens` the sampled tokens. The trials of
    one task form a cluster.

    Args:
        tasks (`Sequence[AgentTask]`):
            The tasks.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        tool_call_syntax (`str`, *optional*):
            Wire syntax of the model's calls, by default the one that its chat template shows.
        chat_template_kwargs (`Mapping[str, Any]`, *optional*):
            Further arguments of the chat template.
        trials (`int`, *optional*, defaults to `1`):
            Dialogues per task.
        max_turns (`int`, *optional*, defaults to `10`):
            Turns of the model after which a dialogue is broken off.
        settings (`Mapping[str, Any]`, *optional*):
            See [`Benchmark`].
        notes (`Sequence[str]`, *optional*):
            See [`Benchmark`].
    """

    metrics = ("success",)
    measures = ("steps", "invalid", "tokens")
    options = {
        **PROMPT_OPTIONS,
        "trials": {"type": positive, "help": "dialogues per task, for a temperature above 0 (default 1)"},
        "max_turns": {"type": positive, "help": "turns of the model at most (default 10)"},
    }
    protocol = ("tool_call_syntax", "chat_template_kwargs", "trials", "max_turns")
    environment: ClassVar[Callable[[], Any]]

    def __init__(
        self,
        tasks: Sequence[AgentTask],
        tokenizer: PreTrainedTokenizerBase,
        tool_call_syntax: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        trials: int = 1,
        max_turns: int = 10,
        settings: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self._syntax = get_syntax(tool_call_syntax or detect_syntax(tokenizer))
        self._tokenizer, self._kwargs, self._max_turns = tokenizer, chat_template_kwargs or {}, max_turns
        self._tasks = {
            f"{task.id}/{trial}" if trials > 1 else task.id: task for task in tasks for trial in range(trials)
        }
        self.settings = {
            "tool_call_syntax": self._syntax.name,
            "chat_template_kwargs": dict(self._kwargs),
            "trials": trials,
            "max_turns": max_turns,
            **(settings or {}),
        }
        self.notes = list(notes)

    @classmethod
    @abstractmethod
    def tasks(cls) -> Sequence[AgentTask]:
        """
        The tasks, which are the same in every run.

        Returns:
            `Sequence[AgentTask]`
        """

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, resources: ExitStack
    ) -> Self:
        """See [`~rest_trl.lab.evaluation.benchmark.Benchmark.from_options`]."""
        limit = options["limit"]
        return cls(
            cls.tasks()[:limit],
            tokenizer,
            options["tool_call_syntax"],
            options["chat_template_kwargs"],
            options["trials"] or 1,
            options["max_turns"] or 10,
            {"limit": limit},
            [f"only the first {limit} tasks"] if limit is not None else [],
        )

    def run(self, generator: Generator, store: CompletionStore) -> list[Score]:
        """See [`Benchmark.run`]. All dialogues advance together, one turn at a time."""
        make = type(self).environment
        dialogues = {
            id: Dialogue(make(), task.row, self._tokenizer, self._syntax, self._kwargs)
            for id, task in self._tasks.items()
        }
        written: dict[str, list[Completion]] = {id: [] for id in dialogues}
        live = list(dialogues)
        for turn in range(self._max_turns):
            prompts = {f"{id}.{turn}": dialogues[id].prompt for id in live}
            completions = complete(prompts, generator, store, f"{self.name}, turn {turn + 1}", leave=False)
            going_on = []
            for id in live:
                completion = completions.get(f"{id}.{turn}")
                if completion is not None:
                    written[id].append(completion)
                    if dialogues[id].take(completion.text, completion.truncated):
                        going_on.append(id)
            live = going_on
            if not live:
                break
        return [self._score(id, dialogues[id], written[id], id in live) for id in dialogues]

    def _score(self, id: str, dialogue: Dialogue, completions: Sequence[Completion], is_broken_off: bool) -> Score:
        task = self._tasks[id]
        success = bool(completions) and dialogue.environment.get_reward() == 1
        why = None
        if not completions:
            why = NOT_GENERATED
        elif not success:
            calls = [[call["name"] for call in turn] for turn in dialogue.calls]
            why = f"broken off after {len(completions)} turns" if is_broken_off else f"calls {calls}"
            why = f"truncated; {why}" if completions[-1].truncated else why
        ids = [token_id for completion in completions for token_id in completion.completion_ids]
        texts = [f"[{turn}]\n{completion.text}" for turn, completion in enumerate(completions)]
        measures: dict[str, float] = {
            "steps": len(completions),
            "invalid": dialogue.invalid,
            "tokens": len(ids),
        }
        return Score(
            id, task.subset, task.id, {"success": float(success)}, why, dialogue.calls, ids, "\n".join(texts), measures
        )

    def overall(self, scores: Sequence[Score], metric: str) -> float | str:
        """See [`Benchmark.overall`]."""
        return sum(score.scores[metric] for score in scores) / len(scores)


class TinyAgents(AgentBenchmark):
    """Held-out tasks of the help desk that comes with the package."""

    name = TINY_AGENTS
    environment = OutcomeHelpDesk

    @classmethod
    def tasks(cls) -> Sequence[AgentTask]:
        """See [`AgentBenchmark.tasks`]."""
        return [
            AgentTask(
                f"task_{index}",
                task.kind,
                {"prompt": [{"role": "user", "content": task.request}], "task": task.to_json()},
            )
            for index, task in enumerate(islice(generate_tasks("test"), 512))
        ]
