"""
What a policy does on a task of the package, and whether its reasoning decides its calls:

    OMP_NUM_THREADS=1 python -m rest_trl.lab.commands.task_errors --task decides --model_name_or_path tiny/decides
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from ...rewards.scoring import call_score, is_exact
from ...tool_calls import ParsedCompletion, get_syntax, was_cut
from ..sampling import end_ids, sample, until_end
from ..tiny import resolve_model
from ..tiny.tasks import TASKS, generate_task
from ..tiny.tokenization import render_prompt
from ..tiny.world import Step


BATCH_SIZE = 64
MAX_NEW_TOKENS = 128
GROUP_SIZE = 8  # completions per prompt, as in the recipes
_parse = get_syntax("hermes").parse


class Sampled(NamedTuple):
    """A completion, and whether it was cut off."""

    text: str
    is_cut: bool = False

    def parsed(self) -> ParsedCompletion:
        """Its calls."""
        return replace(_parse(self.text), is_cut=self.is_cut)


def complete(model: Any, tokenizer: Any, prompts: Sequence[str], seed: int) -> list[Sampled]:
    """One completion at temperature 1 for each rendered prompt, which may hold the beginning of it."""
    sampled, ends = [], end_ids(model, tokenizer)
    for start in range(0, len(prompts), BATCH_SIZE):
        batch = prompts[start : start + BATCH_SIZE]
        rows = sample(model, tokenizer, batch, MAX_NEW_TOKENS, seed + start, add_special_tokens=True).tolist()
        ids = [until_end(row, ends) for row in rows]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        sampled += [Sampled(text, was_cut(of_text, ends)) for text, of_text in zip(texts, ids, strict=True)]
    return sampled


def reasoning_of(completion: str) -> str:
    """What stands between the markers of the reasoning; empty, if there is none."""
    return completion.partition("<think>\n")[2].partition("\n</think>")[0]


def kind_of_error(completion: Sampled, gold: Step) -> str:
    """
    Where a completion first differs from the gold one: `"none"` for exactly the gold calls, else `"cut off"`,
    `"format"`, `"number of calls"`, `"tool name"`, `"parameter name"`, `"value, from the reasoning"` (all wrong values
    stand in a reasoning that differs from the gold one) or `"value, in the call"`.
    """
    parsed, golds = completion.parsed(), _parse(gold.solution)
    if is_exact(parsed, golds):
        return "none"
    if parsed.is_cut:
        return "cut off"
    if parsed.errors or not parsed.calls:
        return "format"
    if len(parsed.calls) != len(golds.calls):
        return "number of calls"
    if Counter(call.name for call in parsed.calls) != Counter(call.name for call in golds.calls):
        return "tool name"
    pairs = list(zip(parsed.calls, golds.calls, strict=True))
    if any(call.arguments.keys() != right.arguments.keys() for call, right in pairs):
        return "parameter name"
    wrong = [
        value for call, right in pairs for key, value in call.arguments.items() if value != right.arguments.get(key)
    ]
    reasoning = reasoning_of(completion.text)
    results = [re.escape(str(value)) for value in wrong]
    worked_out = reasoning != gold.reasoning and all(re.search(f"= ?{result}\\.", reasoning) for result in results)
    return "value, from the reasoning" if worked_out else "value, in the call"


def exact_share(completions: Iterable[Sampled], golds: Iterable[Step]) -> float:
    """Share of completions with exactly the gold calls."""
    right = [is_exact(one.parsed(), _parse(gold.solution)) for one, gold in zip(completions, golds, strict=True)]
    return sum(right) / len(right)


def given_reasonings(model: Any, tokenizer: Any, steps: Sequence[Step], seed: int) -> dict[str, float]:
    """Share of exact calls after reasonings that are put into the prompt, by the reasoning that was given."""
    prompts = [render_prompt(step, tokenizer) for step in steps]
    given = {
        "gold": [step.reasoning for step in steps],
        "of the next prompt": [step.reasoning for step in [*steps[1:], steps[0]]],
        "none": [""] * len(steps),
    }
    shares = {}
    for name, reasonings in given.items():
        heads = [f"<think>\n{reasoning}\n</think>\n" for reasoning in reasonings]
        whole = [prompt + head for prompt, head in zip(prompts, heads, strict=True)]
        calls = complete(model, tokenizer, whole, seed)
        whole_calls = (Sampled(head + call.text, call.is_cut) for head, call in zip(heads, calls, strict=True))
        shares[name] = exact_share(whole_calls, steps)
    return shares


def spreadless_share(model: Any, tokenizer: Any, steps: Sequence[Step], seed: int) -> float:
    """Share of groups, one for each step, whose completions all have the same score of calls."""
    prompts = [render_prompt(step, tokenizer) for step in steps for _ in range(GROUP_SIZE)]
    parsed = [one.parsed() for one in complete(model, tokenizer, prompts, seed)]
    spreadless = 0
    for index, step in enumerate(steps):
        gold = _parse(step.solution).calls
        group = parsed[index * GROUP_SIZE : (index + 1) * GROUP_SIZE]
        # Calls that cannot be read have a lower reward than any call.
        spreadless += len({-1.0 if one.errors else call_score(one.calls, gold) for one in group}) == 1
    return spreadless / len(steps)


def main() -> None:
    """Measure a policy as the command line says, and print a table."""
    parser = argparse.ArgumentParser("rest_trl.lab.commands.task_errors", description="What a policy does on a task.")
    parser.add_argument("--task", choices=list(TASKS), required=True)
    parser.add_argument("--model_name_or_path", required=True, help="a path, or tiny/TASK")
    parser.add_argument("--size", type=int, default=512, help="held-out prompts")
    parser.add_argument("--groups", type=int, default=64, help=f"prompts with {GROUP_SIZE} completions each")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    arguments = parser.parse_args()
    name = resolve_model(arguments.model_name_or_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    steps = list(islice(generate_task(arguments.task, "test"), arguments.size))
    completions = complete(model, tokenizer, [render_prompt(step, tokenizer) for step in steps], arguments.seed)
    errors = Counter(kind_of_error(one, step) for one, step in zip(completions, steps, strict=True))
    reasoned = {True: [0, 0], False: [0, 0]}  # completions, and exact ones, by whether the reasoning is gold
    for one, step in zip(completions, steps, strict=True):
        counts = reasoned[reasoning_of(one.text) == step.reasoning]
        counts[0] += 1
        counts[1] += kind_of_error(one, step) == "none"
    title = f"{arguments.model_name_or_path} on {arguments.task}: {len(steps)} held-out prompts, temperature 1"
    table = Table("completions", "share", title=title)
    table.add_row("with exactly the gold calls", f"{errors.pop('none', 0) / len(steps):.3f}")
    for error, count in errors.most_common():
        table.add_row(f"first error: {error}", f"{count / len(steps):.3f}")
    for is_gold, (count, exact) in reasoned.items():
        if count:
            label = "the gold" if is_gold else "another"
            table.add_row(f"exact, of the {count} that sampled {label} reasoning", f"{exact / count:.3f}")
    for given, share in given_reasonings(model, tokenizer, steps, arguments.seed).items():
        table.add_row(f"exact, with this reasoning put in: {given}", f"{share:.3f}")
    grouped = steps[: arguments.groups]
    share = spreadless_share(model, tokenizer, grouped, arguments.seed)
    table.add_row(f"groups without spread, of {len(grouped)}", f"{share:.3f}")
    Console(markup=False, emoji=False).print(table)  # a path may hold what rich would replace


if __name__ == "__main__":
    main()
