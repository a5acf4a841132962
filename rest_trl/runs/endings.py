"""Ends a program with one line for an error that the user can mend; a bug keeps its traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from yaml import YAMLError

from .lifetime import INTERRUPTED, TERMINATED, TerminatedError


_CURES: dict[type[OSError], str] = {
    FileNotFoundError: ": check the path",
    IsADirectoryError: ": give a file",
    NotADirectoryError: ": give a directory, or check the path",
    PermissionError: ": choose another path, or change its permissions",
}

# What is imported inside functions takes seconds, and commands that end at once do not need it.


def is_users(error: BaseException) -> bool:
    """Whether a user can mend an error of the setup."""
    # OSError covers a missing file or model and no access to the Hub, and ImportError an optional package that the
    # recipe asks for and that is not installed.
    if isinstance(error, ValueError | OSError | ImportError | YAMLError):
        return True
    from httpx import HTTPError  # a failed connection to the Hub

    return isinstance(error, HTTPError)


def is_unreachable(error: BaseException) -> bool:
    """Whether an error is that of a connection to the Hub, which says neither what was asked for nor why."""
    from httpx import TransportError
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, TransportError | OfflineModeIsEnabled)


def one_line(error: BaseException) -> str:
    """
    The message of an error that a user can mend, without line breaks.

    ```python
    >>> one_line(FileNotFoundError(2, "No such file or directory", "data.jsonl"))
    'data.jsonl: no such file or directory: check the path'

    ```
    """
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        # One that this package raises is shown without its number. One of the system names a path, and no cure.
        message = error.strerror
        if error.filename is not None:
            cure = next((cure for kind, cure in _CURES.items() if isinstance(error, kind)), "")
            message = f"{error.filename}: {message[0].lower()}{message[1:]}{cure}"
    line = " ".join(message.split())
    if is_unreachable(error):
        return f"the Hugging Face Hub cannot be reached ({line}): check the network, or use files of this machine"
    return line


@contextmanager
def setup_errors(prog: str, before: str = "training started") -> Iterator[None]:
    """
    End the program with one line where its arguments, model or data cannot be used.

    Args:
        prog (`str`):
            Name of the program in messages.
        before (`str`, *optional*, defaults to `"training started"`):
            What is true at the end of the context, for the message on Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        word, status = _stopped(stop)
        sys.stderr.write(f"{prog}: {word} before {before}\n")
        raise SystemExit(status) from None
    except Exception as error:
        if not is_users(error):
            raise
        raise SystemExit(f"{prog}: error: {one_line(error)}") from error


@contextmanager
def run_errors(prog: str, trainer: Any) -> Iterator[None]:
    """
    End the program with one line if training stops for an outside reason: Ctrl-C, a full disk, a lost server, a
    function of the user's that fails.
    """
    from ..credit.turn_rewards import UserFunctionError
    from ..serving.recovery import VLLMServerError
    from .checkpoints import FullDiskError, is_full_disk, way_on

    try:
        yield
    except KeyboardInterrupt as stop:
        word, status = _stopped(stop)
        _close_bars(trainer)
        if trainer.is_world_process_zero():
            state = trainer.state
            sys.stderr.write(
                f"{prog}: {word} after step {state.global_step} of {state.max_steps}; "
                f"{way_on(trainer.args.output_dir)}\n"
            )
        raise SystemExit(status) from None
    except VLLMServerError as error:
        _close_bars(trainer)
        raise SystemExit(f"{prog}: error: {one_line(error)}") from error
    except UserFunctionError as error:
        _close_bars(trainer)
        raise SystemExit(
            f"{prog}: error: training stopped after step {trainer.state.global_step}: {one_line(error)}; "
            f"{way_on(trainer.args.output_dir)}"
        ) from error
    except OSError as error:
        output_dir = trainer.args.output_dir
        if not is_full_disk(error, output_dir):
            raise
        _close_bars(trainer)
        cause = one_line(error)
        if not isinstance(error, FullDiskError):  # a FullDiskError already names the cure
            cause = f"the disk is full ({cause}). Free some room; {way_on(output_dir)}"
        raise SystemExit(f"{prog}: error: training stopped after step {trainer.state.global_step}: {cause}") from error


def _stopped(stop: KeyboardInterrupt) -> tuple[str, int]:
    is_terminated = isinstance(stop, TerminatedError)
    return ("terminated", TERMINATED) if is_terminated else ("interrupted", INTERRUPTED)


def _close_bars(trainer: Any) -> None:
    """Close the progress bars, so that the last message starts on a line of its own."""
    from transformers import ProgressCallback

    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, ProgressCallback):
            for bar in (callback.training_bar, callback.prediction_bar):
                if bar is not None:
                    bar.close()
