"""Ends a program with one line for an error that the user can mend; a bug keeps its traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from httpx import HTTPError
from transformers import ProgressCallback
from yaml import YAMLError

from ..serving.recovery import VLLMServerError
from .checkpoints import FullDiskError, is_full_disk, way_on


INTERRUPTED = 130  # exit status of a program that Ctrl-C has ended, as shells have it

# OSError covers a missing file or model and no access to the Hub, HTTPError a failed connection to it, and ImportError
# an optional package that the recipe asks for and that is not installed.
_USER_ERRORS = (ValueError, OSError, ImportError, YAMLError, HTTPError)


def one_line(error: BaseException) -> str:
    """Return the message of an error without line breaks."""
    # An OSError that this package raises is shown without its number. One of the system names a path, which must stay.
    message = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)
    return " ".join(str(message).split())


@contextmanager
def setup_errors(prog: str, before: str = "training started") -> Iterator[None]:
    """End the program with one line where its arguments, model or data cannot be used."""
    try:
        yield
    except _USER_ERRORS as error:
        raise SystemExit(f"{prog}: error: {one_line(error)}") from error
    except KeyboardInterrupt:
        sys.stderr.write(f"{prog}: interrupted before {before}\n")
        raise SystemExit(INTERRUPTED) from None


@contextmanager
def run_errors(prog: str, trainer: Any) -> Iterator[None]:
    """End the program with one line if training stops for an outside reason: Ctrl-C, a full disk, a lost server."""
    try:
        yield
    except KeyboardInterrupt:
        _close_bars(trainer)
        if trainer.is_world_process_zero():
            state = trainer.state
            sys.stderr.write(
                f"{prog}: interrupted after step {state.global_step} of {state.max_steps}; "
                f"{way_on(trainer.args.output_dir)}\n"
            )
        raise SystemExit(INTERRUPTED) from None
    except VLLMServerError as error:
        _close_bars(trainer)
        raise SystemExit(f"{prog}: error: {one_line(error)}") from error
    except OSError as error:
        output_dir = trainer.args.output_dir
        if not is_full_disk(error, output_dir):
            raise
        _close_bars(trainer)
        cause = one_line(error)
        if not isinstance(error, FullDiskError):  # a FullDiskError already names the cure
            cause = f"the disk is full ({cause}). Free some room; {way_on(output_dir)}"
        raise SystemExit(f"{prog}: error: training stopped after step {trainer.state.global_step}: {cause}") from error


def _close_bars(trainer: Any) -> None:
    """Close the progress bars, so that the last message starts on a line of its own."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, ProgressCallback):
            for bar in (callback.training_bar, callback.prediction_bar):
                if bar is not None:
                    bar.close()
