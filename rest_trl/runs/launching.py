"""`rest-trl train` and `rest-trl sft`: the training programs under `accelerate launch`."""

import signal
from importlib import import_module
from pathlib import Path
from subprocess import CalledProcessError

import torch
from accelerate.commands.config.config_args import default_config_file
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from .recipes import find_recipe


_OPTION = "--accelerate_config"


def split_accelerate_config(arguments: list[str]) -> tuple[str | None, list[str]]:
    """
    Take `--accelerate_config FILE` or `--accelerate_config=FILE` out of a command line. The file can also be the
    name of a configuration that comes with the package, such as `ddp`.
    """
    arguments = [
        part for text in arguments for part in (text.split("=", 1) if text.startswith(_OPTION + "=") else [text])
    ]
    if _OPTION not in arguments:
        return None, arguments
    index = arguments.index(_OPTION)
    file = "".join(arguments[index + 1 : index + 2])
    if not file:
        raise ValueError(f"{_OPTION} needs a file")
    try:
        found = find_recipe(file, "accelerate")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{_OPTION}: {error}") from error
    return str(found), arguments[:index] + arguments[index + 2 :]


def launcher_options(config_file: str | None) -> list[str]:
    """Choose the options of `accelerate launch`."""
    if config_file is not None:
        return ["--config_file", config_file]
    if Path(default_config_file).is_file():
        return []
    processes = max(1, torch.accelerator.device_count())
    options = ["--num_processes", str(processes), "--num_machines", "1"]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]  # the recipe says bf16 and torch_compile
    return [*options, "--multi_gpu"] if processes > 1 else options


def main(arguments: list[str], command: str = "train") -> None:
    """
    Run a training program under `accelerate launch`.

    Args:
        arguments (`list[str]`):
            The program's arguments, among which `--accelerate_config FILE` may be.
        command (`str`, *optional*, defaults to `"train"`):
            `"train"` or `"sft"`: the program is the module of this name.

    Raises:
        SystemExit: with the exit status of the program, which has said what went wrong; or with one line if it could
            not be started, or was killed.
    """
    prog, module = f"rest-trl {command}", f"rest_trl.{command}"
    if "-h" in arguments or "--help" in arguments:
        import_module(module).make_parser(prog).parse_args(["--help"])
    try:
        config_file, arguments = split_accelerate_config(arguments)
        options = [*launcher_options(config_file), "-m", module, *arguments]
        # The program gets Ctrl-C, too, and tells how to go on. The launcher waits; its child has no such handler.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            launch_command(launch_command_parser().parse_args(options))
        finally:
            signal.signal(signal.SIGINT, before)
    except (ValueError, OSError) as error:  # from the configuration, not from the program's process
        from .endings import one_line  # here, because it imports TRL, which takes seconds

        raise SystemExit(f"{prog}: error: {one_line(error)}") from error
    except CalledProcessError as error:
        raise SystemExit(_status(prog, error.returncode)) from None
    except SignalException as error:  # from torchrun's own signal handler
        raise SystemExit(128 + error.sigval) from None
    except ChildFailedError as error:
        raise SystemExit(_status(prog, error.get_first_failure()[1].exitcode)) from None


def _status(prog: str, returncode: int) -> int | str:
    if returncode > 0:
        return returncode
    name = signal.Signals(-returncode).name
    memory = ": perhaps the machine was out of memory" if name == "SIGKILL" else ""
    return f"{prog}: error: the training program was killed by {name}{memory}"
