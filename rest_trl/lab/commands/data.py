"""
`rest-trl data`: a data set as training sees it, and the paper's mixture.

```shell
rest-trl data show Team-ACE/ToolACE --model_name_or_path Qwen/Qwen3-1.7B --max_prompt_length 2048
rest-trl data show --config recipes/qwen3_1.7b.yaml
rest-trl data mix --output data/mixture/train.parquet --test 80 --exclude BFCL_v3_simple.json
```
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runs.recipes import find_recipe, read_recipe
from ...spelling import HintingParser


if TYPE_CHECKING:
    from rich.console import Console

# The functions below import what they need, because these imports take seconds and `--help` needs none of them.

TOOLACE, XLAM = "Team-ACE/ToolACE", "Salesforce/xlam-function-calling-60k"
NUMBERS = (2000, 1000, 1000)  # [paper] section 4: ToolACE, Hammer with masked names, xLAM
# Arguments of `show` that have the name and the meaning of arguments of the training program.
_SHARED = (
    "dataset_name",
    "dataset_config",
    "model_name_or_path",
    "model_revision",
    "trust_remote_code",
    "test_size",
    "max_prompt_length",
    "max_completion_length",
    "tool_call_syntax",
    "chat_template_kwargs",
    "mask_tools",
    "seed",
)


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = HintingParser("rest-trl data", description="Look at data sets, and build the paper's mixture.")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="show a data set as training sees it")
    show.add_argument("dataset_name", nargs="?", help="a file, a directory, a Hub id, tiny or tiny/TASK")
    show.add_argument("--config", type=Path, metavar="RECIPE", help="take what is not given here from this recipe")
    show.add_argument(
        "--model_name_or_path", help="the policy's tokenizer: a path, an id on the Hub, tiny or tiny/TASK"
    )
    show.add_argument("--model_revision", help="branch, tag or commit of the model on the Hub (default: main)")
    show.add_argument("--trust_remote_code", action="store_const", const=True, help="run the tokenizer's own code")
    show.add_argument("--split", help="split of the data set (default: train)")
    show.add_argument("--dataset_config", help="configuration of the data set, for those that have several")
    show.add_argument(
        "--test_size", type=float, metavar="SHARE", help="hold this share of the rows out, as train does: split test"
    )
    show.add_argument("--max_prompt_length", type=int, metavar="TOKENS", help="limit of a prompt")
    show.add_argument("--max_completion_length", type=int, metavar="TOKENS", help="limit of a completion")
    show.add_argument("--tool_call_syntax", help="wire syntax (default: the model's)")
    show.add_argument(
        "--mask_tools", nargs="+", metavar="KIND", help="functions, parameters or both: give these random names"
    )
    show.add_argument("--seed", type=int, help="seed of the random names (default: that of training)")
    show.add_argument("--limit", type=int, default=3, help="examples to show (default: 3)")
    mix = commands.add_parser("mix", help="build the paper's mixture of ToolACE, Hammer with masked names, and xLAM")
    mix.add_argument("--toolace", default=TOOLACE, help="a file, a directory or a Hub id (default: %(default)s)")
    mix.add_argument("--xlam", default=XLAM, help="the same (default: %(default)s)")
    mix.add_argument("--hammer", help="the same; its names are masked (default: other rows of xLAM)")
    numbers = ("TOOLACE", "HAMMER", "XLAM")
    mix.add_argument("--numbers", type=int, nargs=3, default=NUMBERS, metavar=numbers, help="steps (default: paper's)")
    mix.add_argument("--test", type=int, default=0, help="further steps for test.parquet beside the output")
    mix.add_argument("--exclude", nargs="*", default=[], help="files of tests whose questions are kept out")
    mix.add_argument("--seed", type=int, default=0, help="seed of the draw, the names and the order (default: 0)")
    mix.add_argument("--output", type=Path, required=True, metavar="FILE", help="the Parquet file to write")
    return parser


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The value of each option: from the command line, else from the recipe, else the command's default."""
    of_recipe = {} if arguments.config is None else _recipe_options(arguments.config)
    from transformers import TrainingArguments

    options: dict[str, Any] = dict.fromkeys(_SHARED)
    options |= {"split": "train", "model_revision": "main", "seed": TrainingArguments.seed} | of_recipe
    options |= {name: value for name, value in vars(arguments).items() if name in options and value is not None}
    for name, option in (("dataset_name", "a data set"), ("model_name_or_path", "--model_name_or_path")):
        if options[name] is None:
            raise ValueError(f"give {option}, or a recipe that names it with --config")
    return options


def _recipe_options(config: Path) -> dict[str, Any]:
    """What a recipe gives, as the parser of the training program reads it."""
    recipe = read_recipe(find_recipe(config))
    from ...train import make_parser as make_recipe_parser

    given = {key: value for key, value in recipe.items() if key in (*_SHARED, "dataset_train_split")}
    parser = make_recipe_parser("rest-trl data")
    parser.set_defaults_with_config(**given, use_cpu=True, bf16=False)  # this machine need not be able to train
    parsed = {name: value for part in parser.parse_args_into_dataclasses([]) for name, value in vars(part).items()}
    return {"split" if key == "dataset_train_split" else key: parsed[key] for key in given}


def _show(arguments: argparse.Namespace, console: "Console") -> None:
    options = _options(arguments)
    from ...data.figures import summarize
    from ...data.loading import prepare_sources, whole_split
    from ...data.sources import dataset_source, open_sources
    from ...runs.inputs import find_model, load_tiny_split, load_tokenizer
    from ...tool_calls import detect_syntax, get_syntax
    from ..display.data_tables import show_examples, show_sources, show_summary
    from ..tiny import TINY_DATASETS, is_tiny

    name, model = options["dataset_name"], find_model(options["model_name_or_path"])
    tokenizer = load_tokenizer(model, options["model_revision"], bool(options["trust_remote_code"]))
    syntax = get_syntax(options["tool_call_syntax"] or detect_syntax(tokenizer))
    if is_tiny(name, TINY_DATASETS):
        if options["mask_tools"]:
            raise ValueError(f"--mask_tools needs rows with tools in a column, and {name} has prompts of text")
        if options["test_size"] is not None:
            raise ValueError(f"{name} has a split test already: leave out --test_size")
        sources = [dataset_source(load_tiny_split(name, options["split"], options["dataset_config"]), name)]
    else:
        split = whole_split(options["split"], options["test_size"])
        sources = open_sources(name, split, options["dataset_config"])
    prepared = prepare_sources(
        sources,
        tokenizer,
        max_prompt_length=options["max_prompt_length"],
        chat_template_kwargs=options["chat_template_kwargs"],
        mask_tools=options["mask_tools"] or (),
        seed=options["seed"],
    )
    prepared, whole = prepared.part(options["split"], options["test_size"]), prepared
    if options["test_size"] is not None:
        of_split = f"the split {options['split']} with test_size={options['test_size']}"
        console.print(
            f"{len(prepared.examples):,} of {len(whole.examples):,} examples are {of_split}", highlight=False
        )
    summary = summarize(prepared, tokenizer, syntax)
    for shown in (
        *show_sources(prepared),
        *show_summary(summary, prepared.max_prompt_length, options["max_completion_length"], syntax.name),
        *show_examples(prepared.examples[: arguments.limit], tokenizer, syntax.name),
    ):
        console.print(shown)


def _mix(arguments: argparse.Namespace, console: "Console") -> None:
    from ...data.masking import MASKS
    from ...data.mixture import MixturePart, TestQuestions, build_mixture, write_mixture
    from ..display.data_tables import show_mixture

    toolace, hammer, xlam = arguments.numbers
    test_path = arguments.output.with_name("test.parquet")
    if arguments.test and arguments.output.name == test_path.name:
        raise ValueError("--test writes test.parquet beside the output: give the output another name")
    parts = [
        MixturePart("toolace", arguments.toolace, toolace),
        MixturePart("hammer", arguments.hammer or arguments.xlam, hammer, MASKS),
        MixturePart("xlam", arguments.xlam, xlam),
    ]
    parts = [part for part in parts if part.number > 0]
    train, test, reports = build_mixture(parts, arguments.seed, TestQuestions(arguments.exclude), arguments.test)
    console.print(show_mixture(reports))
    write_mixture(train, arguments.output)
    console.print(f"{len(train):,} steps: {arguments.output}", highlight=False)
    if test:
        write_mixture(test, test_path)
        console.print(f"{len(test):,} steps: {test_path}", highlight=False)


def main(args: list[str] | None = None) -> None:
    """
    Show a data set or build the mixture, as the command line says.

    Args:
        args (`list[str]`, *optional*):
            The command line, by default the process's.

    Raises:
        SystemExit: with one line, if a file or an argument is wrong.
    """
    arguments = make_parser().parse_args(args)
    from rich.console import Console

    from ...runs.endings import setup_errors
    from ...runs.logs import configure_logging

    configure_logging()
    with setup_errors("rest-trl data", before="it was done"):
        # Without markup, because rows and paths may hold what rich would replace.
        (_show if arguments.command == "show" else _mix)(arguments, Console(markup=False, emoji=False))


if __name__ == "__main__":
    main()
