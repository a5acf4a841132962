"""`rest-trl`: the command line of the package."""

import sys
from importlib import import_module

from . import __version__
from .runs.logs import hold_kernels_warning
from .spelling import HintingParser


# For each command, the module whose `main` runs it and its line in the help.
_COMMANDS = {
    "train": ("rest_trl.runs.launching", "train as a recipe says (--help lists all arguments)"),
    "sft": ("rest_trl.lab.commands.sft", "fine-tune on gold completions as a recipe says"),
    "data": ("rest_trl.lab.commands.data", "show a data set as training sees it, or build the paper's mixture"),
    "inspect": ("rest_trl.lab.inspect", "show regions and coefficients of completions"),
    "evaluate": ("rest_trl.lab.evaluation.evaluate", "evaluate a checkpoint, with error bars"),
    "compare": ("rest_trl.lab.evaluation.compare", "tell whether one checkpoint beats another"),
    "study": ("rest_trl.lab.commands.study", "train arms and seeds of one recipe in pairs, and tell them apart"),
    "recipes": ("rest_trl.runs.listing", "list the recipes that come with the package"),
    "diagnose": ("rest_trl.lab.commands.diagnose", "say where the noise of a checkpoint's gradient comes from"),
    "doctor": ("rest_trl.lab.doctor", "say what of the stack is missing and what to do about it"),
}


def main() -> None:
    """
    Entry point of `rest-trl`.

    `rest-trl COMMAND ...` calls `main` of the command's module. No other is imported, because some take seconds.
    """
    parser = HintingParser("rest-trl", description="ResT training of tool-calling LLMs with TRL.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, purpose) in _COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    command = parser.parse_args(sys.argv[1:2]).command
    hold_kernels_warning()
    # As for a module that is run: dotted paths of a user's rewards, syntaxes and benchmarks start from here.
    if "" not in sys.path:
        sys.path.insert(0, "")
    import_module(_COMMANDS[command][0]).main(sys.argv[2:])


if __name__ == "__main__":
    main()
