"""
API-Bank as a benchmark, with two scores.

The released score is for comparison with published figures, the strict one is without its faults.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from ...tool_calls import ToolCall, detect_syntax, get_syntax
from ...tool_calls.json_calls import read_untyped
from .api_bank import PROMPT_FORMS, load_samples
from .benchmark import PROMPT_OPTIONS, Published, Sample, Score, SingleTurnBenchmark
from .generation import Completion, Tokenizer


# The gold values are text for all types. A completion may write a value of one of these types as it is or as text.
_TYPED = {"integer", "number", "boolean", "array"}


class APIBank(SingleTurnBenchmark):
    """API-Bank with the paper's prompts or in the model's form, on samples that [`load_samples`] returned."""

    name = "api_bank"
    metrics = ("strict", "soft")
    protocol = ("prompt_form", "chat_template_kwargs")
    options = {
        "data": {"help": "API-Bank: folder with level-{1,2,3}-api_processed.json, or Hub id"},
        "prompt_form": {"choices": PROMPT_FORMS, "help": "API-Bank: as in the paper (default), or the model's own"},
        **PROMPT_OPTIONS,
    }
    # The paper (arXiv 2509.21826) uses the soft score and gives no error bars.
    published_metric = "soft"
    published = (
        Published("overall", "Qwen3-1.7B", "ResT", 64.99),
        Published("overall", "Qwen3-4B-2507", "ResT", 68.68),
        Published("overall", "Qwen3-8B", "ResT", 70.69),
        Published("overall", "Qwen3-8B", "Dr.GRPO", 68.15),
        Published("overall", "Qwen3-8B", "ResT without dynamic reward", 64.15),
        Published("overall", "Qwen3-8B", "ResT without CoT gradients", 66.33),
        Published("overall", "Qwen3-8B", "ResT without curriculum", 65.83),
        Published("overall", "Qwen3-14B", "ResT", 69.35),
        Published("overall", "Llama-3.2-3B-Instruct", "ResT", 62.81),
        Published("overall", "Llama-3.2-3B-Instruct", "GRPO", 59.13),
    )

    def __init__(
        self,
        samples: Sequence[Sample],
        prompt_form: str,
        tool_call_syntax: str,
        chat_template_kwargs: dict[str, Any] | None = None,
        limit: int | None = None,
    ) -> None:
        self._prompt_form = prompt_form
        self._tool_call_syntax = tool_call_syntax
        hidden = sum(not sample.gold["types"] and bool(sample.gold["parameters"]) for sample in samples)
        notes = [
            f"prompts in the {prompt_form} form, calls read as {tool_call_syntax}",
            "soft is the authors' score: any call counts, an object without name or parameters too",
            f"{hidden} prompts do not show the gold tool",
        ]
        settings = {
            "prompt_form": prompt_form,
            "tool_call_syntax": tool_call_syntax,
            "chat_template_kwargs": chat_template_kwargs or {},
            "limit": limit,
        }
        limited = [f"only the first {limit} samples"] if limit is not None else []
        super().__init__(samples[:limit], settings, limited + notes)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], tokenizer: Tokenizer, resources: ExitStack) -> Self:
        if options["data"] is None:
            raise ValueError(
                "--benchmark api_bank needs --data, a folder with level-{1,2,3}-api_processed.json "
                "(benchmarks/API-Bank of github.com/qiancheng0/ToolRL), or a Hub id"
            )
        form, template_kwargs = options["prompt_form"] or "paper", options["chat_template_kwargs"]
        samples = load_samples(options["data"], tokenizer, form, template_kwargs)
        syntax = options["tool_call_syntax"] or ("rlla" if form == "paper" else detect_syntax(tokenizer))
        return cls(samples, form, syntax, template_kwargs, options["limit"])

    def score(self, sample: Sample, completion: Completion) -> Score:
        """
        Score one sample by `strict` and `soft`.

        All gold values are strings. In the native form the model sees the declared JSON types. There, a value of the
        declared type is right if the gold string stands for it (`5` for `"5"`). In a syntax that cannot tell numbers
        from strings, this also holds for parameters that are declared as strings.
        """
        syntax = get_syntax(self._tool_call_syntax)
        parsed = syntax.parse(completion.text)
        calls = parsed.calls
        if self._prompt_form == "native":
            calls = [ToolCall(call.name, _as_written(call.arguments, sample.gold, syntax.untyped)) for call in calls]
            soft = soft_score([{"name": call.name, "parameters": call.arguments} for call in calls], sample.gold)
        else:
            soft = soft_score(released_calls(completion.text), sample.gold)
        why = strict_score(calls, parsed.errors, sample.gold)
        if why is not None and completion.truncated:
            why = f"truncated; {why}"
        return Score(
            sample.id,
            sample.subset,
            sample.cluster,
            {"strict": float(why is None), "soft": float(soft)},
            why,
            [{"name": call.name, "arguments": call.arguments} for call in parsed.calls],
            completion.completion_ids,
            completion.text,
        )

    @classmethod
    def protocol_differences(cls, summary: Mapping[str, Any]) -> list[str]:
        differences = []
        if summary["prompt_form"] != "paper":
            differences.append("tools and history go through the chat template, the paper writes them out as text")
        if summary["generation"]["max_new_tokens"] != 4096:
            tokens = summary["generation"]["max_new_tokens"]
            differences.append(f"at most {tokens} new tokens, the paper allows 4096")
        differences.append("a sample without a completion counts as wrong, in the paper's scorer it is left out")
        differences.append("prompt and completion may fill the model's context, the paper's server had 4096 tokens")
        return differences


def released_calls(text: str) -> list[Any]:
    """
    Read calls, as JSON values of any type, as the released code does.

    A call is any line of JSON between the last `<tool_call>` and the next `</tool_call>`. Where a tag is missing, the
    completion is read from its start or to its end.
    """
    calls = []
    for line in text.strip().rpartition("<tool_call>")[2].partition("</tool_call>")[0].strip().split("\n"):
        try:
            calls.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return calls


def soft_score(calls: list[Any], gold: Mapping[str, Any]) -> int:
    """
    Score by the released rule: 1 if any of the calls equals the gold one, else 0.

    The faults of the released code are kept, because the published figures were computed with them. A model may write
    any number of calls if one is right. An object without `name` or `parameters` is taken for the parameters of the
    gold tool. A value at which the released code raises, such as a number, ends the search: right calls after it do
    not count.
    """
    for call in calls:
        if isinstance(call, str):
            try:
                call = json.loads(call)
            except (ValueError, RecursionError):
                return 0
        if not isinstance(call, dict | list | str):  # the released code looks for "name" in it, which raises
            return 0
        if isinstance(call, dict) and "name" in call and "parameters" in call:
            name, parameters = call["name"], call["parameters"]
        elif not isinstance(call, dict) and "name" in call and "parameters" in call:
            return 0  # the released code indexes it by "name", which raises
        else:
            name, parameters = gold["name"], call
        if name == gold["name"] and parameters == gold["parameters"]:
            return 1
    return 0


def strict_score(calls: list[ToolCall], errors: list[str], gold: Mapping[str, Any]) -> str | None:
    """
    Why an answer is wrong, `None` if it is right: exactly one call of the gold tool with exactly the gold parameters.
    """
    if errors:
        return f"unreadable: {errors[0]}"
    if len(calls) != 1:
        return f"{len(calls)} calls instead of 1" if calls else "no call"
    from ...rewards.scoring import json_equal

    call, parameters = calls[0], gold["parameters"]
    if call.name != gold["name"]:
        return f"tool {call.name!r} instead of {gold['name']!r}"
    if missing := sorted(parameters.keys() - call.arguments.keys()):
        return f"without parameter {missing[0]!r}"
    if unexpected := sorted(call.arguments.keys() - parameters.keys()):
        return f"with unexpected parameter {unexpected[0]!r}"
    for name, value in parameters.items():
        if not json_equal(call.arguments[name], value):
            return f"{name!r} is {call.arguments[name]!r} instead of {value!r}"
    return None


def _as_written(arguments: dict[str, Any], gold: Mapping[str, Any], untyped: bool) -> dict[str, Any]:
    """Replace values that a gold string stands for by that string, so that they compare equal to it."""
    from ...rewards.scoring import json_equal

    written = dict(arguments)
    for name, value in arguments.items():
        text = gold["parameters"].get(name)
        if not isinstance(text, str) or isinstance(value, str):
            continue
        if (untyped and json_equal(value, read_untyped(text))) or (
            gold["types"].get(name) in _TYPED and json_equal(value, _value_of(text))
        ):
            written[name] = text
    return written


def _value_of(text: str) -> Any:
    """The value that a gold string stands for: JSON, or Python's literals `True`, `['a']`."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text
