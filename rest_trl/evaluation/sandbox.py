"""
A forked child that works without network, files and processes of its own, for code that evaluates model output.

Only the standard library is imported, and nothing of this package: Pythons of other environments load this file by path.
"""

import ctypes
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


# From the strongest: seccomp leaves a child the system calls of a process that only computes; namespaces take the
# network, the other processes and the writable file system away. What a machine allows is tried once.
LEVELS = ("namespaces+seccomp", "namespaces", "seccomp")

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
# CLONE_NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY, _MS_PRIVATE = 442, -100, 0x8000, 1, 1 << 18
_NOBODY = 65534
_AUDIT_ARCH_X86_64 = 0xC000003E
# x86_64 numbers: read write close fstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
# pread64 select sched_yield mremap madvise nanosleep getpid exit uname getcwd gettimeofday getrusage times getuid getgid
# geteuid getegid sigaltstack gettid futex sched_getaffinity clock_gettime clock_getres clock_nanosleep exit_group
# getrandom membarrier rseq
_ALLOWED_SYSCALLS = (
    (0, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 23, 24, 25, 28, 35, 39, 60, 63, 79, 96, 98, 100, 102, 104)
    + (107, 108, 131, 186, 202, 204, 228, 229, 230, 231, 318, 324, 334)
)  # fmt: skip


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


def _call(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _prctl(option: int, value: Any) -> None:
    _call("prctl", option, value, 0, 0, 0)


def _enter_namespaces(scratch: str) -> None:
    if os.geteuid() == 0:
        # Root's files would stay root's to write: go on as nobody, who then is the only user of the namespace.
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        _prctl(_PR_SET_DUMPABLE, 1)
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", _NAMESPACES)
    for path, text in (
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", f"{_NOBODY} {uid} 1"),
        ("/proc/self/gid_map", f"{_NOBODY} {gid} 1"),
    ):
        with open(path, "w") as file:
            file.write(text)
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, _MS_PRIVATE, 0)
    _call("syscall", _SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, len(attributes))
    options = b"size=16m,mode=0777"
    _call("mount", b"tmpfs", scratch.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)


def _drop_capabilities() -> None:
    header, nothing = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0] * 6)
    _call("capset", header, nothing)


def _set_limits(limits: Limits) -> None:
    with open("/proc/self/statm") as file:
        in_use = int(file.read().split()[0]) * resource.getpagesize()
    for kind, value in (
        (resource.RLIMIT_AS, in_use + limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_FSIZE, 16 << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _forbid_syscalls() -> None:
    if platform.machine() != "x86_64":
        raise OSError(f"seccomp: the table of system calls is for x86_64, not for {platform.machine()}")

    def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, value)

    load, jump_equal, give = 0x20, 0x15, 0x06
    allow, kill, not_permitted = 0x7FFF0000, 0x80000000, 0x00050000 | 1
    program = [
        instruction(load, 4),
        instruction(jump_equal, _AUDIT_ARCH_X86_64, 1, 0),
        instruction(give, kill),
        instruction(load, 0),
    ]
    # Numbers of the x32 calls are none of the list, so they are refused as well.
    remaining = len(_ALLOWED_SYSCALLS)
    for number in _ALLOWED_SYSCALLS:
        program.append(instruction(jump_equal, number, remaining, 0))
        remaining -= 1
    program += [instruction(give, not_permitted), instruction(give, allow)]
    code = ctypes.create_string_buffer(b"".join(program))
    head = struct.pack("@HP", len(program), ctypes.addressof(code))
    _call("prctl", _PR_SET_SECCOMP, 2, head, 0, 0)


class SandboxedChild:
    """
    A forked child that answers messages with `handler`, inside a sandbox.

    The child has the memory of the parent at the fork, so what the handler needs is imported before; it has a new
    process group, no files but its two pipes, limits on memory and processor time, and the sandbox of `level`. Messages and
    answers are JSON. A child that breaks a limit is killed with everything that it started.

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
                _enter_namespaces(self._scratch)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            # Only children of the caller of unshare are in the new process namespace; with its first process all others end.
            if "namespaces" in level and (child := os.fork()):
                os.waitpid(child, 0)
                os._exit(0)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            os.chdir(self._scratch)
            _set_limits(limits)
            if "namespaces" in level:
                _drop_capabilities()
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
            if "seccomp" in level:
                _forbid_syscalls()
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
            except BaseException as error:  # SystemExit from evaluated text must not end the loop in the parent's code
                _write_line({"error": f"{type(error).__name__}: {error}"})


def strongest_level() -> str:
    """
    The strongest of `LEVELS` that this machine allows, found by trying.

    Raises:
        SandboxError: if none is; model output is not evaluated then.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxError(f"model output is evaluated in a sandbox of Linux only, and this is {sys.platform}")
    reasons = []
    for level in LEVELS:
        try:
            SandboxedChild(lambda message: message, Limits(), level).close()
        except SandboxError as error:
            reasons.append(f"{level}: {error}")
        else:
            return level
    raise SandboxError("this machine allows no sandbox to evaluate model output in: " + "; ".join(reasons))
