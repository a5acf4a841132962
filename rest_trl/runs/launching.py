"""`rest-trl train` and `rest-trl sft`: the training programs under `accelerate launch`."""

import signal
from importlib import import_module
from pathlib import Path
from subprocess import CalledProcessError

from . import lifetime
from .endings import one_line
from .recipes import find_recipe, load_arm, read_recipe, take_arms, take_option


_OPTION = "--accelerate_config"


def split_accelerate_config(arguments: list[str]) -> tuple[str | None, list[str]]:
    """
    Take `--accelerate_config FILE` out of a command line.

    The file can also be the name of a configuration that comes with the package, such as `ddp`.
    """
    file, arguments = take_option(arguments, _OPTION)
    if file is None:
        return None, arguments
    try:
        return str(find_recipe(file, "accelerate")), arguments
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{_OPTION}: {error}") from error


def launcher_options(config_file: str | None) -> list[str]:
    """
    The options of `accelerate launch`.

    Without a configuration of the recipe or of the user, these are accelerate's own choice (all GPUs of this machine,
    or one process), spelled out so that accelerate does not list it at each start.
    """
    import torch
    from accelerate.commands.config.config_args import default_config_file

    if config_file is not None:
        return ["--config_file", config_file]
    if Path(default_config_file).is_file():  # accelerate reads it itself
        return []
    processes = max(1, torch.accelerator.device_count())
    options = ["--num_processes", str(processes), "--num_machines", "1"]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]  # the recipe says bf16 and torch_compile
    return [*options, "--multi_gpu"] if processes > 1 else options


def _launch(options: list[str]) -> None:
    from accelerate.commands import launch

    with lifetime.launching():  # the program says how to go on, and the launcher waits for it
        launch.launch_command(launch.launch_command_parser().parse_args(options))


def main(arguments: list[str], prog: str = "rest-trl train", module: str = "rest_trl.train") -> None:
    """
    Run a training program under `accelerate launch`.

    Args:
        arguments (`list[str]`):
            The program's arguments, among which `--accelerate_config FILE` may be.
        prog (`str`, *optional*, defaults to `"rest-trl train"`):
            Name of the command in messages.
        module (`str`, *optional*, defaults to `"rest_trl.train"`):
            The program.

    Raises:
        SystemExit: with the exit status of the program, which has said what went wrong; or with one line if it could
            not be started, or was killed.
    """
    if "-h" in arguments or "--help" in arguments:
        import_module(module).make_parser(prog).parse_args(["--help"])
    try:
        config_file, arguments = split_accelerate_config(arguments)
        recipe = take_option(arguments, "--config")[0]
        if not arguments:
            raise ValueError(
                "there is nothing to train: give --config RECIPE (rest-trl recipes lists those there are)"
            )
        if recipe is not None and (path := find_recipe(recipe)).is_file():  # a pipe can be read only once
            read_recipe(path)  # what is wrong here need not wait for the program
        for arm in take_arms(arguments)[0]:
            load_arm(arm)
        options = [*launcher_options(config_file), "-m", module, *arguments]
    except (ValueError, OSError) as error:
        raise SystemExit(f"{prog}: error: {one_line(error)}") from error
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        _launch(options)
    except (ValueError, OSError) as error:  # from the configuration, not from the program's process
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
