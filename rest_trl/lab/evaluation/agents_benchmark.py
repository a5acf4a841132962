"""Benchmarks of agents: dialogues with a TRL environment, run as in TRL's loop of tool calls."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Self

from ...tool_calls import ToolCallSyntax, detect_syntax, get_syntax
from ..tiny import TINY_AGENTS
from ..tiny.agents import OutcomeHelpDesk, generate_tasks
from .benchmark import NOT_GENERATED, PROMPT_OPTIONS, Benchmark, Score, positive
from .generation import Completion, CompletionStore, Generator, Tokenizer, complete


# Public methods that are not tools: TRL and this package call them, the model does not.
_NO_TOOLS = ("reset", "get_reward", "turn_rewards")
_OF_NOBODY = {"role": "user", "content": "?"}
_SIGN = "here-ends-a-call"


def tools_of(environment: Any) -> dict[str, Callable[..., Any]]:
    """The public methods of an environment by name, in TRL's order, without those that are not tools."""
    found = {}
    for name, function in inspect.getmembers(type(environment), predicate=inspect.isfunction):
        if name not in _NO_TOOLS and not name.startswith("_"):
            if inspect.iscoroutinefunction(function):
                raise ValueError(f"{type(environment).__name__}.{name} is asynchronous: evaluate with a plain method")
            found[name] = getattr(environment, name)
    return found


class Dialogue:
    """
    One dialogue with a TRL environment, which is reset with the row of the data set.

    As in TRL's loop, the sampled text stays as it is, and the results of its calls are appended as the chat template
    renders them. A turn that has no call, has one that cannot be read, or was cut off is the last one. `prompt` is
    what is to be completed next, `calls` are those of every turn, and `invalid` counts the calls that could not be
    read or carried out.
    """

    def __init__(
        self,
        environment: Any,
        row: Mapping[str, Any],
        tokenizer: Tokenizer,
        syntax: ToolCallSyntax,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.environment = environment
        self._tokenizer, self._syntax = tokenizer, syntax
        self._kwargs = dict(chat_template_kwargs or {})
        self._tools = tools_of(environment)
        messages = [dict(message) for message in row["prompt"]]
        observation = environment.reset(**row)
        if observation is not None:
            if not isinstance(observation, str):
                raise ValueError(f"{type(environment).__name__}.reset gave images, which are not evaluated yet")
            messages[-1]["content"] += observation
        self.prompt = self._render(messages, tools=list(self._tools.values()) or None, add_generation_prompt=True)
        self.calls: list[list[dict[str, Any]]] = []
        self.invalid = 0

    def take(self, text: str, is_cut_off: bool = False) -> bool:
        """
        Carry out the calls of a turn, given its sampled text without the token that ends it.

        Returns whether the dialogue continues, with the new [`prompt`](Dialogue).
        """
        parsed = self._syntax.parse(text)
        self.calls.append([{"name": call.name, "arguments": call.arguments} for call in parsed.calls])
        self.invalid += len(parsed.errors)
        if parsed.errors or not parsed.calls or is_cut_off:
            return False
        results = [self._carry_out(call.name, call.arguments) for call in parsed.calls]
        self.prompt += text + self._render_results(results)
        return True

    def _carry_out(self, name: str, arguments: Any) -> dict[str, str]:
        try:
            if name not in self._tools:
                raise ValueError(f"Tool {name} not found.")
            result: Any = self._tools[name](**arguments)
        except Exception as error:  # whatever a tool raises is a result, as in TRL's loop
            self.invalid += 1
            result = {"error": str(error)}
        return {"role": "tool", "name": name, "content": str(result)}

    def _render_results(self, results: Sequence[dict[str, str]]) -> str:
        """The end of the turn, the results, and the opened next turn, as the chat template renders them."""
        # Only the text after the call is used, so it does not matter how the template renders earlier turns.
        call = {"type": "function", "function": {"name": results[0]["name"], "arguments": {"sign": _SIGN}}}
        turn = {"role": "assistant", "content": "", "tool_calls": [call]}
        rendered = self._render([_OF_NOBODY, turn, *results], add_generation_prompt=True)
        end: Any = self._tokenizer.eos_token
        start = rendered.find(end, rendered.index(_SIGN)) if end and _SIGN in rendered else -1
        if start < 0:
            raise ValueError(
                f"the chat template does not end a turn of calls with the token {end!r}, so it is not known what "
                "comes between a call and its result: give a tokenizer whose eos_token ends a turn"
            )
        return rendered[start:]

    def _render(self, messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> str:
        conversation: Any = list(messages)
        rendered: Any = self._tokenizer.apply_chat_template(conversation, tokenize=False, **kwargs, **self._kwargs)
        return str(rendered)


@dataclass(frozen=True)
class AgentTask:
    """
    A task: its id and subset, see [`~rest_trl.lab.evaluation.benchmark.Sample`], and the arguments of the
    environment's `reset`, among them `prompt`, a list of messages.
    """

    id: str
    subset: str
    row: dict[str, Any]


class AgentBenchmark(Benchmark):
    """
    Dialogues with a TRL environment, run as in training.

    A subclass has a `name`, an [`environment`](AgentBenchmark.environment) and its [`tasks`](AgentBenchmark.tasks). A
    dialogue is right if the environment's `get_reward` gives 1 at its end. The measure `steps` counts the turns of the
    model, `invalid` the calls that could not be read or carried out, and `tokens` the sampled tokens. There are
    `trials` dialogues per task, which form a cluster, and each is broken off after `max_turns` turns of the model.
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
        tokenizer: Tokenizer,
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
        """The tasks, which are the same in every run."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any], tokenizer: Tokenizer, resources: ExitStack) -> Self:
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
        measures: dict[str, float] = {"steps": len(completions), "invalid": dialogue.invalid, "tokens": len(ids)}
        return Score(
            id, task.subset, task.id, {"success": float(success)}, why, dialogue.calls, ids, "\n".join(texts), measures
        )


class TinyAgents(AgentBenchmark):
    """Held-out tasks of the help desk that comes with the package."""

    name = TINY_AGENTS
    environment = OutcomeHelpDesk

    @classmethod
    def tasks(cls) -> Sequence[AgentTask]:
        return [
            AgentTask(
                f"task_{index}",
                task.kind,
                {"prompt": [{"role": "user", "content": task.request}], "task": task.to_json()},
            )
            for index, task in enumerate(islice(generate_tasks("test"), 512))
        ]
