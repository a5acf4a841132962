"""API-Bank as a benchmark: its options, its notes and the paper's figures."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from ...tool_calls import detect_syntax
from .api_bank import PROMPT_FORMS, load_samples
from .api_bank_scoring import METRICS, score
from .benchmark import Published, SingleTurnBenchmark
from .options import PROMPT_OPTIONS
from .samples import Completion, Sample, Score


class APIBank(SingleTurnBenchmark):
    """
    API-Bank with the paper's prompts or in the model's own form, see
    [`~rest_trl.lab.evaluation.api_bank.load_samples`].

    Args:
        samples (`Sequence[Sample]`):
            The samples that [`~rest_trl.lab.evaluation.api_bank.load_samples`] returned.
        prompt_form (`str`):
            The form that their prompts have.
        tool_call_syntax (`str`):
            The syntax that completions are read in.
        chat_template_kwargs (`dict`, *optional*):
            The arguments of the chat template with which the prompts were rendered.
        limit (`int`, *optional*):
            Take only this many of the samples, the first ones.
    """

    name = "api_bank"
    metrics = METRICS
    protocol = ("prompt_form", "chat_template_kwargs")
    options = {
        "data": {"help": "API-Bank: folder with level-{1,2,3}-api_processed.json, or Hub id"},
        "prompt_form": {
            "choices": PROMPT_FORMS,
            "help": "API-Bank: as in the paper (default), or the model's own",
        },
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
    def from_options(
        cls, options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, resources: ExitStack
    ) -> Self:
        """See [`~rest_trl.lab.evaluation.benchmark.Benchmark.from_options`]."""
        if options["data"] is None:
            raise ValueError(
                "--benchmark api_bank needs --data, a folder with level-{1,2,3}-api_processed.json "
                "(benchmarks/API-Bank of github.com/qiancheng0/ToolRL), or a Hub id"
            )
        form, template_kwargs = options["prompt_form"] or "paper", options["chat_template_kwargs"]
        samples = load_samples(options["data"], tokenizer, form, template_kwargs)
        syntax = options["tool_call_syntax"] or ("rlla" if form == "paper" else detect_syntax(tokenizer))
        return cls(samples, form, syntax, template_kwargs, options["limit"])

    def score(self, sample: Sample, completion: Completion | None) -> Score:
        """See [`~rest_trl.lab.evaluation.api_bank_scoring.score`]."""
        return score(sample, completion, self._tool_call_syntax, self._prompt_form)

    @classmethod
    def protocol_differences(cls, summary: Mapping[str, Any]) -> list[str]:
        """See [`~rest_trl.lab.evaluation.benchmark.Benchmark.protocol_differences`]."""
        differences = []
        if summary["prompt_form"] != "paper":
            differences.append("tools and history go through the chat template, the paper writes them out as text")
        if summary["generation"]["max_new_tokens"] != 4096:
            tokens = summary["generation"]["max_new_tokens"]
            differences.append(f"at most {tokens} new tokens, the paper allows 4096")
        differences.append("a sample without a completion counts as wrong, in the paper's scorer it is left out")
        differences.append("prompt and completion may fill the model's context, the paper's server had 4096 tokens")
        return differences
