"""BFCL as a benchmark: prompts by the model's chat template, execution and scores by the official package."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Self

from ...tool_calls import detect_syntax
from ..packaged.bfcl_single import is_trained_on_bfcl
from .benchmark import PROMPT_OPTIONS, Benchmark, Published, Sample, Score, mean_score, not_generated
from .bfcl.environment import PACKAGES, setup
from .bfcl.multi_turn import Rollout, run_dialogues
from .bfcl.process import OfficialBFCL
from .bfcl.prompts import PromptRenderer
from .bfcl.questions import AVERAGES, Calls, Case, Verdict, clusters, encode, expand_categories
from .generation import Completion, CompletionStore, Generator, Tokenizer, complete


_WHY_LENGTH = 500


class BFCLBenchmark(Benchmark):
    """
    Categories of a BFCL version, asked and scored by the official package, which stays open as long as this is used.

    The chat template must render tools. A category that is unknown, a prompt that the template does not render or that
    does not show a function, or dialogues where this machine allows no sandbox are a `ValueError`.
    """

    metrics = ("valid",)
    # The official checker takes a call that it cannot read for none, so in the irrelevance categories it is right.
    measures = ("unreadable_percent",)
    protocol = ("chat_template_kwargs",)
    options = {
        "categories": {
            "type": lambda text: text.split(","),
            "help": "BFCL: names or all (default), python, single_turn, non_live, live, multi_turn; with commas",
        },
        **PROMPT_OPTIONS,
    }
    needs_setup = True
    version: ClassVar[str]

    def __init__(
        self,
        official: OfficialBFCL,
        categories: Sequence[str],
        tokenizer: Tokenizer,
        tool_call_syntax: str,
        chat_template_kwargs: dict[str, Any] | None = None,
        limit: int | None = None,
    ) -> None:
        dialogues = [name for name in categories if name.startswith("multi_turn")]
        if dialogues and not official.sandbox:
            raise ValueError(
                f"{dialogues[0]} executes what the model calls, and {official.refusal}. The single-turn categories "
                "execute nothing: --categories single_turn runs here"
            )
        self._official = official
        self._renderer = PromptRenderer(tokenizer, tool_call_syntax, chat_template_kwargs)
        self.settings: dict[str, Any] = {
            "categories": list(categories),
            "tool_call_syntax": tool_call_syntax,
            "chat_template_kwargs": chat_template_kwargs or {},
            "limit": limit,
        }
        cases = {category: official.cases(category) for category in categories}
        self._clusters = clusters(cases)
        cases = {category: questions[:limit] for category, questions in cases.items()}
        self._dialogues = {name: cases[name] for name in dialogues}
        self._questions: dict[str, Sample] = {}
        for category, questions in cases.items():
            if category not in self._dialogues:
                for case in questions:
                    prompt = self._renderer.check(case.id, case.turns[0], case.functions)
                    self._questions[case.id] = self._sample(category, case, prompt)
        for case in (case for questions in self._dialogues.values() for case in questions):
            self._renderer.check(case.id, case.turns[0], case.functions)
        if self._dialogues:
            self._renderer.check_dialogues()
        self.notes = self._notes(limit)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], tokenizer: Tokenizer, resources: ExitStack) -> Self:
        categories = expand_categories(cls.version, options["categories"] or ["all"])
        syntax = options["tool_call_syntax"] or detect_syntax(tokenizer)
        official = resources.enter_context(OfficialBFCL(cls.version))
        benchmark = cls(official, categories, tokenizer, syntax, options["chat_template_kwargs"], options["limit"])
        for name in (options["model_name_or_path"], options["adapter"]):
            if is_trained_on_bfcl(name):
                benchmark.notes.insert(
                    0, f"{name} was trained on questions of BFCL: these figures are no score of BFCL"
                )
        return benchmark

    @classmethod
    def setup(cls, python: str | None) -> Path:
        """Make the isolated environment of this version, see [`~rest_trl.lab.evaluation.bfcl.environment.setup`]."""
        return setup(cls.version, python=python)

    def _notes(self, limit: int | None) -> list[str]:
        notes = [
            f"questions, execution and scores of {PACKAGES[self._official.version]}; prompts by the model's own chat "
            f"template, calls read as {self.settings['tool_call_syntax']}",
            "names of functions keep their dots; the types dict, float, tuple and any are shown as object, number, "
            "array and string",
        ]
        if any("irrelevance" in category for category in self.settings["categories"]):
            notes.append("irrelevance: the official checker counts a call that cannot be read as none, so as right")
        if self._dialogues:
            notes.append(f"calls were executed in a sandbox of {self._official.sandbox}")
        if self._renderer.one_call_per_message:
            notes.append("the chat template takes one call a message: a step's calls are shown to it one by one")
        return [f"only the first {limit} samples of each category", *notes] if limit is not None else notes

    def _sample(self, category: str, case: Case, prompt: str) -> Sample:
        return Sample(case.id, category, self._clusters[case.id], prompt, None)

    def run(self, generator: Generator, store: CompletionStore) -> list[Score]:
        """See [`Benchmark.run`]. Calls of a dialogue are nested by turn and step."""
        prompts = {sample.id: sample.prompt for sample in self._questions.values()}
        completions = complete(prompts, generator, store, self.name)
        scores = [self._score_question(sample, completions.get(sample.id)) for sample in self._questions.values()]
        if not self._dialogues:
            return scores
        from tqdm.auto import tqdm

        rollouts = run_dialogues(self._dialogues, self._renderer, self._official, generator, store)
        bar = tqdm(rollouts.values(), desc="official checker", unit="dialogue")
        return scores + [self._score_dialogue(rollout) for rollout in bar]

    def _score_question(self, sample: Sample, completion: Completion | None) -> Score:
        if completion is None:
            return not_generated(sample, self.metrics)
        calls = self._renderer.read(completion.text)
        verdict = self._official.check(sample.subset, sample.id, calls)
        return _score(sample, verdict, [calls], _as_json(calls), [completion], completion.text)

    def _score_dialogue(self, rollout: Rollout) -> Score:
        sample, completions = self._sample(rollout.category, rollout.case, ""), rollout.completions
        if not completions:
            return not_generated(sample, self.metrics)
        if rollout.failure is None:
            verdict = self._official.check(rollout.category, rollout.case.id, rollout.turns)
        else:
            verdict = Verdict(valid=False, error_type="broken_off", error=rollout.failure)
        # The text of a dialogue names turn and step before each completion.
        texts = [f"[{completion.id.rpartition('/')[2]}]\n{completion.text}" for completion in completions]
        steps = [step for turn in rollout.turns for step in turn]
        return _score(sample, verdict, steps, _as_json(rollout.turns), completions, "\n".join(texts))

    def _averages(self, scores: Sequence[Score], metric: str) -> dict[str, float | str]:
        accuracies = {}
        for category in {score.subset for score in scores}:
            members = [score for score in scores if score.subset == category]
            accuracies[category] = (mean_score(members, metric), len(members))
        return self._official.averages(accuracies)

    def overall(self, scores: Sequence[Score], metric: str) -> float | str:
        """See [`~rest_trl.lab.evaluation.benchmark.Benchmark.overall`]. The figure is that of the official formula."""
        figure = self._averages(scores, metric)["overall"]
        return figure if isinstance(figure, str) else figure / 100

    def groups(self, scores: Sequence[Score], metric: str) -> dict[str, tuple[float, list[Score]]]:
        """See [`Benchmark.groups`]. The groups are those with an official average."""
        groups = {}
        for name, figure in self._averages(scores, metric).items():
            if name == "overall" or isinstance(figure, str):
                continue
            members = [score for score in scores if score.subset in AVERAGES[self._official.version][name][2]]
            share = mean_score(members, metric)
            # An official average that is the share of right samples, up to rounding, is given as that share, because
            # only the exact share gets an interval.
            groups[name] = (share if abs(100 * share - figure) < 0.005001 else figure / 100, members)
        return groups


class BFCLv3(BFCLBenchmark):
    """BFCL v3, which the paper reports."""

    name = "bfcl_v3"
    version = "v3"
    # The paper (arXiv 2509.21826) gives no error bars.
    published_metric = "valid"
    published = (
        Published("multi_turn", "Qwen3-1.7B", "ResT", 15.75),
        Published("multi_turn", "Qwen3-1.7B", "SFT then ResT", 15.25),
        Published("multi_turn", "Qwen3-1.7B", "SFT then ResT, tuned curriculum", 17.62),
        Published("multi_turn", "Qwen3-4B-2507", "ResT", 50.38),
        Published("multi_turn", "Qwen3-4B-2507", "ResT, KL 0.003", 50.25),
        Published("multi_turn", "Qwen3-4B-2507", "GRPO", 41.62),
        Published("multi_turn", "Qwen3-4B-2507", "Dr.GRPO (range of two figures)", 45.75, 48.62),
        Published("multi_turn", "GPT-4o", "as is", 50.00),
        Published("multi_turn", "Qwen3-8B", "ResT", 40.13),
        Published("multi_turn", "Qwen3-8B", "Dr.GRPO", 38.12),
        Published("multi_turn", "Qwen3-14B", "ResT", 44.25),
        Published("multi_turn", "Qwen3-14B", "GRPO", 38.88),
    )

    @classmethod
    def protocol_differences(cls, summary: Mapping[str, Any]) -> list[str]:
        return ["our prompts and parsing for the model's own syntax, the paper's handler is not published"]


class BFCLv4(BFCLBenchmark):
    """BFCL v4. Its questions and its overall figure differ from those of v3: never compare the two."""

    name = "bfcl_v4"
    version = "v4"


def _score(
    sample: Sample, verdict: Verdict, steps: Sequence[Calls], calls: Any, completions: Sequence[Completion], text: str
) -> Score:
    why = None
    if not verdict.valid:
        why = f"{verdict.error_type}: {verdict.error}"[:_WHY_LENGTH]
        why = f"truncated; {why}" if any(completion.truncated for completion in completions) else why
    ids = [token_id for completion in completions for token_id in completion.completion_ids]
    unreadable = {"unreadable_percent": 100 * sum(step is None for step in steps) / len(steps)}
    valid = {"valid": float(verdict.valid)}
    return Score(sample.id, sample.subset, sample.cluster, valid, why, calls, ids, text, unreadable)


def _as_json(calls: Any) -> list[Any]:
    """Calls, or turns of steps of calls, as JSON values. Calls that could not be read become an empty list."""
    return json.loads(encode(calls)) or []
