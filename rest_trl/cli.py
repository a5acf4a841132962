"""`rest-trl`: the command line of the package."""

import argparse
import sys
from importlib import import_module

from .runs.kernels import hold_kernels_warning


# The module whose `main` is the command, and the extra that it needs.
_COMMANDS = {
    "train": ("rest_trl.runs.launching", None, "train as a recipe says (--help lists all arguments)"),
    "sft": ("rest_trl.sft.launching", None, "fine-tune on gold completions as a recipe says"),
    "data": ("rest_trl.data.cli", None, "show a data set as training sees it, or build the paper's mixture"),
    "inspect": ("rest_trl.inspect", None, "show regions and coefficients of completions"),
    "evaluate": ("rest_trl.evaluation.cli", "evaluation", "evaluate a checkpoint, with error bars"),
    "compare": ("rest_trl.evaluation.compare_cli", "evaluation", "tell whether one checkpoint beats another"),
    "study": ("rest_trl.study.cli", "evaluation", "train arms and seeds of one recipe in pairs, and tell them apart"),
    "recipes": ("rest_trl.runs.recipes", None, "list the recipes that come with the package"),
    "diagnose": ("rest_trl.diagnose.cli", "evaluation", "say where the noise of a checkpoint's gradient comes from"),
    "doctor": ("rest_trl.doctor", None, "say what of the stack is missing and what to do about it"),
}


def main() -> None:
    """
    Entry point of `rest-trl`.

    `rest-trl COMMAND ...` is the function `main` of a module, imported only for its command because some take seconds.

    Raises:
        SystemExit: with one line, if the command needs an extra that is not installed.
    """
    parser = argparse.ArgumentParser("rest-trl", description="ResT training of tool-calling LLMs with TRL.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, _, purpose) in _COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    command = parser.parse_args(sys.argv[1:2]).command
    module, extra, _ = _COMMANDS[command]
    hold_kernels_warning()
    try:
        run = import_module(module).main
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        raise SystemExit(
            f"rest-trl {command}: error: {error.name} is not installed: pip install 'rest-trl[{extra}]'"
        ) from error
    run(sys.argv[2:])


if __name__ == "__main__":
    main()
