"""The forked child and the parent's side of it."""

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


# From the strongest: seccomp leaves a child the system calls of a process that only computes; namespaces take the
# network, the other processes and the writable file system away. What a machine allows is tried once.
LEVELS = ("namespaces+seccomp", "namespaces", "seccomp")


class SandboxError(Exception):
    """The child did not answer: too slow, too large an answer, or dead."""


@dataclass(frozen=True)
class Limits:
    """
    What a child may use.

    Args:
        wall_seconds (`float`, *optional*, defaults to `30.0`):
            Time for one answer.
        cpu_seconds (`int`, *optional*, defaults to `20`):
            Processor time of a child in all.
        memory_bytes (`int`, *optional*, defaults to 512 MiB):
            Address space beyond what the parent has when it forks.
        answer_bytes (`int`, *optional*, defaults to 16 MiB):
            The longest answer.
    """

    wall_seconds: float = 30.0
    cpu_seconds: int = 20
    memory_bytes: int = 512 << 20
    answer_bytes: int = 16 << 20


class SandboxedChild:
    """
    A forked child that answers messages with `handler`, inside a sandbox.

    The child has the memory of the parent at the fork, so what the handler needs is imported before; it has a new
    process group, no files but its two pipes, limits on memory and processor time, and the sandbox of `level`.
    Messages and answers are JSON. A child that breaks a limit is killed with everything that it started.

    The parent must have one thread only.

    Args:
        handler (`Callable[[Any], Any]`):
            Called in the child with each message; what it raises is the text of a [`SandboxError`] in the parent.
        limits (`Limits`):
            What the child may use.
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
            # Whatever happens, this copy of the parent must not go on with the parent's work.
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
            # Only children of this process are in the new process namespace; with the first of them all others end.
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
        """Send a message, which starts the clock of its answer. A dead child shows when the answer is received."""
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
        The answer to the message that was sent before.

        Raises:
            SandboxError: if there is none; the child is dead then.
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
        """Kill the child and all that it started. Does nothing the second time."""
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
            except BaseException as error:  # also SystemExit of evaluated text
                _write_line({"error": f"{type(error).__name__}: {error}"})


def strongest_level() -> str:
    """
    The strongest of `LEVELS` that this machine allows, found by trying.

    Every level rests on Linux: on its namespaces or on its filter of system calls. What other systems offer to a
    program without rights is no sandbox for `eval`. Limits on resources leave files, network and processes within
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
