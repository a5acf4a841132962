"""`rest-trl`: the command line of the package."""

import argparse
import sys


def _train(arguments: list[str]) -> None:
    if "-h" in arguments or "--help" in arguments:
        from .train import make_parser

        make_parser("rest-trl train").parse_args(arguments)
    from .runs.launching import launch

    launch(arguments)


def _evaluation(command: str, arguments: list[str]) -> None:
    try:
        from .evaluation import cli, compare_cli
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"rest-trl {command}: error: {error.name} is not installed: pip install 'rest-trl[evaluation]'"
        ) from error
    {"evaluate": cli.main, "compare": compare_cli.main}[command](arguments)


def main() -> None:
    """
    Entry point of `rest-trl`.

    `rest-trl train [--accelerate_config FILE] ...` is `accelerate launch [--config_file FILE] -m rest_trl.train ...`;
    `rest-trl inspect ...` is [`rest_trl.inspect`](rest_trl.inspect.main), `rest-trl doctor ...` is
    [`rest_trl.doctor`](rest_trl.doctor.main), `rest-trl evaluate ...` and `rest-trl compare ...` are
    [`rest_trl.evaluation`](rest_trl.evaluation.cli.main).
    """
    parser = argparse.ArgumentParser("rest-trl", description="ResT training of tool-calling LLMs with TRL.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="train as a recipe says (--help lists all arguments)", add_help=False)
    commands.add_parser("inspect", help="show regions and coefficients of completions", add_help=False)
    commands.add_parser("evaluate", help="evaluate a checkpoint, with error bars", add_help=False)
    commands.add_parser("compare", help="tell whether one checkpoint beats another", add_help=False)
    commands.add_parser("doctor", help="say what of the stack is missing and what to do about it", add_help=False)
    arguments = parser.parse_args(sys.argv[1:2])
    if arguments.command == "train":
        _train(sys.argv[2:])
    elif arguments.command in ("evaluate", "compare"):
        _evaluation(arguments.command, sys.argv[2:])
    elif arguments.command == "doctor":
        from .doctor import main as doctor_main

        doctor_main(sys.argv[2:])
    else:
        from .inspect import main as inspect_main

        inspect_main(sys.argv[2:])


if __name__ == "__main__":
    main()
