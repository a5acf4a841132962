"""A training ends with the command that launched it, and has its output directory to itself."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import psutil


INTERRUPTED, TERMINATED = 130, 143  # exit statuses after Ctrl-C and SIGTERM, as shells have them

_LAUNCHER = "REST_TRL_LAUNCHER"  # the id of the launching process, in the environment of the training
_ENDING = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])
_TWICE = 1.0  # seconds within which a second Ctrl-C is the first, which the terminal and the launcher both send
_POLL, _GRACE = 0.5, 30.0  # seconds


class TerminatedError(KeyboardInterrupt):
    """The process is asked to end by SIGTERM."""


@contextmanager
def _handlers(handlers: dict[int, Callable[..., Any]]) -> Iterator[None]:
    """Handle signals, except those that the process was started to ignore; only the main thread can."""
    in_main = threading.current_thread() is threading.main_thread()
    heeded = [number for number in handlers if in_main and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handlers[number]) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def launching() -> Iterator[None]:
    """Pass signals on to the training that is launched, and let it know whose end is its own."""

    def forward(number: int, frame: Any) -> None:
        for child in psutil.Process().children():
            child.send_signal(number)

    os.environ[_LAUNCHER] = str(os.getpid())
    try:
        with _handlers(dict.fromkeys(_ENDING, forward)):
            yield
    finally:
        del os.environ[_LAUNCHER]


@contextmanager
def ending_in_time() -> Iterator[None]:
    """
    End a training with the process that launched it, and turn SIGTERM into an exception, as Python does with Ctrl-C.

    A rank among others keeps SIGTERM as it is: it may wait for the others where no exception is raised.
    """
    last = -_TWICE

    def interrupt(number: int, frame: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= _TWICE:
            last = time.monotonic()
            raise TerminatedError if number == signal.SIGTERM else KeyboardInterrupt

    launcher = os.environ.get(_LAUNCHER, "")
    if launcher.isdecimal():
        threading.Thread(target=_watch, args=(int(launcher),), daemon=True).start()
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    with _handlers(dict.fromkeys(_ENDING[:2] if alone else _ENDING[:1], interrupt)):
        yield


def _watch(launcher: int) -> None:
    """Wait for the end of a process, then end this one."""
    is_parent = os.getppid() == launcher
    while psutil.pid_exists(launcher) and not (is_parent and os.getppid() != launcher):
        time.sleep(_POLL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def locked(output_dir: str | Path) -> Iterator[None]:
    """
    Keep other trainings out of a directory. The lock dies with the process; of several ranks, the first one has it.

    Raises:
        FileExistsError: if another training has it.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    path = Path(output_dir)
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path / "_training.lock")  # `Trainer` pushes no file whose name begins with _
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise FileExistsError(
            f"another training is running in {output_dir}: wait for its end, or give another --output_dir"
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        if is_new and not any(path.iterdir()):
            path.rmdir()
