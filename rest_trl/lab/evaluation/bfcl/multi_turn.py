"""Dialogues of several turns between a model and BFCL's simulators, many at a time."""

import logging
from collections import deque
from collections.abc import Mapping, Sequence

from ..generation import Completion, CompletionStore, Generator, complete
from .process import OfficialBFCL
from .prompts import RENDERING_ERRORS, PromptRenderer
from .questions import Calls, Case


logger = logging.getLogger(__name__)

# The largest number of dialogues at once. Each of them has a process.
AT_ONCE = 200


class Rollout:
    """
    One dialogue in progress.

    A dialogue ends early if the last of the `max_steps` of a turn still makes calls. `turns` holds the calls of every
    step of every turn that was begun, `completions` one per step, and `failure` why the dialogue broke off, which
    makes it wrong.
    """

    def __init__(self, category: str, case: Case, renderer: PromptRenderer, max_steps: int) -> None:
        self.category = category
        self.case = case
        self.turns: list[list[Calls]] = []
        self.completions: list[Completion] = []
        self.is_over = False
        self.failure: str | None = None
        self._renderer = renderer
        self._max_steps = max_steps
        self._messages = list[dict]()
        self._functions = list(case.functions)
        self._begin_turn()

    def _begin_turn(self) -> None:
        turn = len(self.turns)
        self._messages += self.case.turns[turn]
        self._functions += self.case.functions_added.get(turn, [])
        self.turns.append([])

    @property
    def step_id(self) -> str:
        """Id of the next step's completion."""
        return f"{self.case.id}/{len(self.turns) - 1}.{len(self.turns[-1])}"

    def prompt(self) -> str | None:
        """The prompt of the next step; `None` if the template fails, which ends the dialogue."""
        try:
            return self._renderer.render(self._messages, self._functions)
        except RENDERING_ERRORS as error:
            self.fail(f"the chat template cannot render the history: {type(error).__name__}: {error}")
            return None

    def fail(self, reason: str) -> None:
        """End the dialogue, which then counts as wrong."""
        logger.warning(f"{self.case.id} ended in turn {len(self.turns) - 1} and counts as wrong: {reason}")
        self.is_over, self.failure = True, reason

    def take(self, completion: Completion) -> Calls:
        """Add a step, and give its calls to execute; `None` means that there are none, so the turn is over."""
        self.completions.append(completion)
        calls = self._renderer.read(completion.text)
        self.turns[-1].append(calls)
        if calls:
            # After too many steps the official loop ends the dialogue, and does not continue with the next turn.
            self.is_over = len(self.turns[-1]) == self._max_steps
            return calls
        self._messages += self._renderer.turn(completion.text)
        if len(self.turns) == len(self.case.turns):
            self.is_over = True
        else:
            self._begin_turn()
        return None

    def take_results(self, results: Sequence[str] | None) -> None:
        """Add the results of the last step's calls. `None` means that they broke a limit, which ends the dialogue."""
        if results is None:
            self.fail("its calls broke a limit of the sandbox")
        else:
            calls = self.turns[-1][-1] or ()
            self._messages += self._renderer.with_results(self.completions[-1].text, calls, results)


def run_dialogues(
    cases: Mapping[str, Sequence[Case]],
    renderer: PromptRenderer,
    official: OfficialBFCL,
    generator: Generator,
    store: CompletionStore,
) -> dict[str, Rollout]:
    """
    Have the model go through dialogues, given by category, step by step and many at a time.

    Completions have ids such as `multi_turn_base_0/2.1` (turn and step from 0). A run that continues after an
    interruption executes the stored steps again. The simulators are deterministic, so the prompts are the same, and
    stored completions are not generated again.
    """
    from tqdm.auto import tqdm

    waiting = deque(
        Rollout(category, case, renderer, official.max_steps)
        for category, questions in cases.items()
        for case in questions
    )
    rollouts = {rollout.case.id: rollout for rollout in waiting}
    active: dict[str, Rollout] = {}
    opened = set[str]()
    with tqdm(desc="multi_turn", total=len(waiting), unit="dialogue") as bar:
        while waiting or active:
            while waiting and len(active) < AT_ONCE:
                rollout = waiting.popleft()
                active[rollout.case.id] = rollout
            _round(active, opened, official, generator, store)
            for id in [id for id, rollout in active.items() if rollout.is_over]:
                del active[id]
                if id in opened:
                    opened.remove(id)
                    official.close_rollout(id)
                bar.update()
    return rollouts


def _round(
    active: Mapping[str, Rollout],
    opened: set[str],
    official: OfficialBFCL,
    generator: Generator,
    store: CompletionStore,
) -> None:
    """Take the next step of every dialogue. A dialogue's first call starts its simulators and adds it to `opened`."""
    prompts = {rollout.step_id: prompt for rollout in active.values() if (prompt := rollout.prompt()) is not None}
    completions = complete(prompts, generator, store, "steps", leave=False)
    calls = {}
    for id, rollout in active.items():
        if rollout.is_over:
            continue
        if rollout.step_id not in completions:
            rollout.fail("the prompt leaves the model no room for a completion")
        elif to_execute := rollout.take(completions[rollout.step_id]):
            calls[id] = to_execute
            if id not in opened:
                official.open(id, rollout.category, id)
                opened.add(id)
    for id, results in official.step(calls).items():
        active[id].take_results(results)
        if results is None:  # the official process has closed that rollout
            opened.remove(id)
