"""
The demo: trains the embedded tiny model, and measures what it learned on held-out prompts.

```shell
python -m rest_trl.demo --config recipes/demo.yaml
```
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest
from transformers import PreTrainedTokenizerBase, ProgressCallback

from .display.curves import plot_curves
from .display.terminal import colored_completion, legend
from .regions.partition import partition
from .rewards import is_exact
from .tiny import load_tiny_dataset
from .tool_calls import Region, get_syntax
from .train import make_parser, make_trainer
from .trainer import ResTGRPOTrainer


HELD_OUT = 512  # prompts: a worst-case 95% half-width of 4.3 points


class _Progress(ProgressCallback):
    """A progress bar that shows the rewards instead of a page of metrics per step."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and "reward" in logs:
            exact = logs.get("rest/reward/exact")
            self.training_bar.set_postfix_str(f"reward {logs['reward']:.2f}, exact {exact:.2f}")


@torch.no_grad()
def sample(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int, seed: int
) -> torch.Tensor:
    """
    One sampled completion per prompt, at temperature 1.

    Args:
        model:
            A causal language model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer, padding on the left.
        prompts (`Sequence[str]` of length `B`):
            Rendered prompts.
        max_new_tokens (`int`):
            Tokens per completion at most.
        seed (`int`):
            Seed of the sampling; the caller's random state is left alone.

    Returns:
        `torch.Tensor` of shape `(B, T)`: completion ids, padded on the right.
    """
    inputs = tokenizer(list(prompts), padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    was_training = model.training
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        output = model.generate(
            **inputs.to(model.device),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    model.train(was_training)
    return output[:, inputs["input_ids"].size(1) :]


def count_exact(
    completion_ids: torch.Tensor, solutions: Sequence[str], tokenizer: PreTrainedTokenizerBase, tool_call_syntax: str
) -> int:
    """
    Number of completions that make exactly the gold calls.

    Args:
        completion_ids (`torch.Tensor` of shape `(B, T)`):
            Completion ids.
        solutions (`Sequence[str]` of length `B`):
            Gold completions.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        tool_call_syntax (`str`):
            Name of the wire syntax.

    Returns:
        `int`
    """
    parse = get_syntax(tool_call_syntax).parse
    texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
    return sum(is_exact(parse(text), parse(gold)) for text, gold in zip(texts, solutions, strict=True))


def results_table(name: str, counts: Sequence[tuple[str, int]], total: int) -> Table:
    """
    Accuracies with 95% Wilson intervals.

    Args:
        name (`str`):
            Title of the table.
        counts (`Sequence[tuple[str, int]]`):
            Label and number of exact completions.
        total (`int`):
            Number of prompts.

    Returns:
        [`rich.table.Table`]
    """
    table = Table(title=f"{name}: exact calls on {total} held-out prompts, sampled at temperature 1")
    for column in ("policy", "accuracy", "95% interval"):
        table.add_column(column)
    for label, count in counts:
        interval = binomtest(count, total).proportion_ci(method="wilson")
        table.add_row(label, f"{count / total:.3f}", f"[{interval.low:.3f}, {interval.high:.3f}]")
    return table


def main(args: list[str] | None = None) -> ResTGRPOTrainer:
    """
    Run the demo.

    Args:
        args (`list[str]`, *optional*):
            A recipe and overrides, as of [`rest_trl.train`](rest_trl.train.main).

    Returns:
        [`ResTGRPOTrainer`]: the trainer after training.
    """
    console = Console()
    start = time.perf_counter()
    script_args, training_args, model_args = make_parser("rest_trl.demo").parse_args_and_config(args)
    trainer = make_trainer(script_args, training_args, model_args)
    trainer.pop_callback(ProgressCallback)
    trainer.add_callback(_Progress)
    tokenizer: Any = trainer.processing_class
    tool_call_syntax: Any = training_args.tool_call_syntax  # detected with the trainer, if not set
    held_out = load_tiny_dataset("test", size=HELD_OUT)

    def measure() -> tuple[torch.Tensor, int]:
        ids = sample(trainer.model, tokenizer, held_out["prompt"], training_args.max_completion_length, seed=0)
        return ids, count_exact(ids, held_out["solution"], tokenizer, tool_call_syntax)

    _, before = measure()
    trainer.train()
    completion_ids, after = measure()
    trainer.save_model()
    output = Path(training_args.output_dir)
    plot_curves(trainer.state.log_history, output / "curves.png")
    name = "GRPO" if training_args.coefficients == "uniform" else f"ResT ({training_args.coefficients})"
    console.print(results_table(name, [("start", before), ("end", after)], HELD_OUT))
    region_ids = partition(completion_ids, tokenizer, tool_call_syntax)
    console.print("Three completions of the trained model:", legend())
    for ids, regions in zip(completion_ids[:3].tolist(), region_ids[:3].tolist(), strict=True):
        length = next((i for i, region in enumerate(regions) if region == Region.NONE), len(ids))
        console.rule()
        console.print(colored_completion(ids[:length], regions[:length], tokenizer))
    console.rule()
    console.print(f"Curves: {output / 'curves.png'}. Model: {output}. {time.perf_counter() - start:.0f} seconds.")
    return trainer


if __name__ == "__main__":
    main()
