"""The sandboxed child process, and the parent's end of it."""

import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .isolation import (
    drop_capabilities,
    end_with_parent,
    enter_namespaces,
    forbid_new_rights,
    forbid_syscalls,
    set_limits,
)


# The strongest level comes first. Namespaces take away the network, the other processes and the writable file system.
# The filter (seccomp) allows only the system calls needed to compute, and to read and write files already open.
LEVELS = ("namespaces+seccomp", "namespaces", "seccomp")


class SandboxError(Exception):
    """There is no sandbox, or its child did not answer: it was too slow, answered too much, raised, or died."""


@dataclass(frozen=True)
class Limits:
    """
    How much a child may use. A lower hard limit that the parent already has is kept.

    Args:
        wall_seconds (`float`, *optional*, defaults to `30.0`):
            Time for one answer, in seconds.
        cpu_seconds (`int`, *optional*, defaults to `20`):
            Processor time of a child in all, in seconds.
        memory_bytes (`int`, *optional*, defaults to 512 MiB):
            Address space beyond what the parent has when it forks.
        answer_bytes (`int`, *optional*, defaults to 16 MiB):
            Length of the longest answer.
    """

    wall_seconds: float = 30.0
    cpu_seconds: int = 20
    memory_bytes: int = 512 << 20
    answer_bytes: int = 16 << 20


class SandboxedChild:
    """
    A forked child that answers messages with `handler`, inside a sandbox.

    The child starts with a copy of the parent's memory, so the parent must import what the handler needs. The child
    has a process group of its own, no open files but two pipes, limits on memory and processor time, and the sandbox
    of `level`. Messages and answers are JSON. A child that breaks a limit is killed with everything that it started.

    The parent must have one thread only, because a fork copies only the thread that calls it.

    Args:
        handler (`Callable[[Any], Any]`):
            Called in the child with each message. If it raises, the parent gets a [`SandboxError`] with the text.
        limits (`Limits`):
            How much the child may use.
        level (`str`):
            One of `LEVELS`.

    Raises:
        SandboxError: if this machine does not allow a sandbox of that level.
    """

    def __init__(self, handler: Callable[[Any], Any], limits: Limits, level: str) -> None:
        self.limits = limits
        self._deadline = 0.0
        self._buffer = b""
        self._scratch = tempfile.mkdtemp(prefix="sandbox-")
        os.chmod(self._scratch, 0o755)
        request, self._request = os.pipe()
        self._answer, answer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            # This copy of the parent must never go on with the parent's work, whatever is raised here.
            try:
                self._become_child(handler, limits, level, request, answer)
            finally:
                os._exit(1)
        os.close(request)
        os.close(answer)
        self._is_open = True
        try:
            self._deadline = time.monotonic() + limits.wall_seconds
            self.receive()
        except SandboxError:
            self.close()
            raise

    def _become_child(
        self, handler: Callable[[Any], Any], limits: Limits, level: str, request: int, answer: int
    ) -> None:
        try:
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor, source in ((0, request), (1, answer), (2, nothing)):
                os.dup2(source, descriptor)
            os.closerange(3, 65536)
            if "namespaces" in level:
                enter_namespaces(self._scratch)
            end_with_parent()
            # The new process namespace holds the children of this process, but not this process itself. The first
            # child does the work. When it ends, the kernel ends all other processes of the namespace.
            if "namespaces" in level and (child := os.fork()):
                os.waitpid(child, 0)
                os._exit(0)
            end_with_parent()
            os.chdir(self._scratch)
            set_limits(limits.cpu_seconds, limits.memory_bytes)
            if "namespaces" in level:
                drop_capabilities()
            forbid_new_rights()
            if "seccomp" in level:
                forbid_syscalls()
        except OSError as error:
            _write_line({"error": str(error)})
            return
        _write_line({"answer": level})
        _serve(handler)

    def send(self, message: Any) -> None:
        """
        Send a message, and start the clock for its answer.

        Args:
            message (`Any`):
                A JSON value. If the child is dead, [`receive`](SandboxedChild.receive) raises.
        """
        self._deadline = time.monotonic() + self.limits.wall_seconds
        data = memoryview(json.dumps(message).encode() + b"\n")
        os.set_blocking(self._request, False)
        while data:
            _, writable, _ = select.select([], [self._request], [], max(0.0, self._deadline - time.monotonic()))
            if not writable:
                return
            try:
                data = data[os.write(self._request, data) :]
            except BrokenPipeError:
                return

    def receive(self) -> Any:
        """
        Wait for the answer to the message that was sent last.

        Returns:
            `Any`: a JSON value.

        Raises:
            SandboxError: if the handler raised, or no readable answer came in time. The child has then been killed.
        """
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([self._answer], [], [], max(0.0, self._deadline - time.monotonic()))
            data = os.read(self._answer, 1 << 16) if readable else b""
            self._buffer += data
            if not data or len(self._buffer) > self.limits.answer_bytes:
                self.close()
                if len(self._buffer) > self.limits.answer_bytes:
                    raise SandboxError(f"an answer longer than {self.limits.answer_bytes} bytes")
                raise SandboxError("the process died" if readable else f"no answer in {self.limits.wall_seconds} s")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as error:
            self.close()
            raise SandboxError(f"an unreadable answer: {error}") from None
        if "error" in answer:
            self.close()
            raise SandboxError(answer["error"])
        return answer["answer"]

    def close(self) -> None:
        """Kill the child and all processes that it started. A second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            os.killpg(self._pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._request)
        os.close(self._answer)
        os.rmdir(self._scratch)


def _write_line(answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def _serve(handler: Callable[[Any], Any]) -> None:
    buffer = b""
    while data := os.read(0, 1 << 16):
        buffer += data
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            try:
                answer = {"answer": handler(json.loads(line))}
                _write_line(answer)
            except BaseException as error:  # evaluated text may raise SystemExit as well
                _write_line({"error": f"{type(error).__name__}: {error}"})


def strongest_level() -> str:
    """
    The strongest of `LEVELS` that this machine allows, found by trying.

    Every level rests on Linux: on its namespaces or on its filter of system calls. What other systems offer to a
    program without privileges is no sandbox for `eval`. Limits on resources leave files, network and processes within
    reach, and macOS does not enforce the limit on memory (`RLIMIT_AS`). An audit hook or the isolated mode (`-I`) of
    Python does not stop code inside the interpreter, which can undo the hook or call C. So there is no weaker level
    for other systems: what needs a sandbox is refused there, and what executes nothing runs without one.

    Returns:
        `str`

    Raises:
        SandboxError: if this machine allows none, with the cause and the cure.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxError(
            f"the sandbox needs Linux, and this is {sys.platform}: run it on Linux, or in a Docker container"
        )
    reasons = []
    for level in LEVELS:
        try:
            SandboxedChild(lambda message: message, Limits(), level).close()
        except SandboxError as error:
            reasons.append(f"{level}: {error}")
        else:
            return level
    raise SandboxError(
        f"this machine allows no sandbox ({'; '.join(reasons)}): allow user namespaces, or use an x86-64 Linux"
    )
