"""
A sandbox for code that evaluates model output: a forked child without network, writable files or other processes.

This file imports only the standard library and nothing of `rest_trl`, because other environments load it by its path.
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


_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
# CLONE_NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY, _MS_PRIVATE = 442, -100, 0x8000, 1, 1 << 18
_NOBODY = 65534
_AUDIT_ARCH_X86_64 = 0xC000003E
# x86_64 numbers: read write close fstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
# pread64 select sched_yield mremap madvise nanosleep getpid exit uname getcwd gettimeofday getrusage times getuid
# getgid geteuid getegid sigaltstack gettid futex sched_getaffinity clock_gettime clock_getres clock_nanosleep
# exit_group getrandom membarrier rseq
# fmt: off
_ALLOWED_SYSCALLS = (
    0, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 23, 24, 25, 28, 35, 39, 60, 63, 79, 96, 98, 100, 102, 104,
    107, 108, 131, 186, 202, 204, 228, 229, 230, 231, 318, 324, 334,
)
# fmt: on

# The strongest level comes first. Namespaces take away the network, the other processes and the writable file system.
# The filter (seccomp) allows only the system calls needed to compute, and to read and write files already open.
LEVELS = ("namespaces+seccomp", "namespaces", "seccomp")


class SandboxError(Exception):
    """There is no sandbox, or its child did not answer: it was too slow, answered too much, raised, or died."""


@dataclass(frozen=True)
class Limits:
    """How much a child may use. A lower hard limit that the parent already has is kept."""

    wall_seconds: float = 30.0  # for one answer
    cpu_seconds: int = 20  # of a child in all
    memory_bytes: int = 512 << 20  # address space beyond what the parent has when it forks
    answer_bytes: int = 16 << 20


class SandboxedChild:
    """
    A forked child that answers messages with `handler`, inside a sandbox.

    The child starts with a copy of the parent's memory, so the parent must import what the handler needs. The child
    has a process group of its own, no open files but two pipes, limits on memory and processor time, and the sandbox
    of `level`. Messages and answers are JSON. A child that breaks a limit is killed with everything that it started.

    The parent must have one thread only, because a fork copies only the thread that calls it.

    `handler` is called in the child with each message. If it raises, the parent gets a [`SandboxError`] with the text,
    as it does here if this machine does not allow a sandbox of that level.
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
            # This copy of the parent must never continue the parent's work, whatever is raised here.
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
            _end_with_parent()
            # The new process namespace holds the children of this process, but not this process itself. The first
            # child does the work. When it ends, the kernel ends all other processes of the namespace.
            if "namespaces" in level and (child := os.fork()):
                os.waitpid(child, 0)
                os._exit(0)
            _end_with_parent()
            os.chdir(self._scratch)
            _set_limits(limits.cpu_seconds, limits.memory_bytes)
            if "namespaces" in level:
                _drop_capabilities()
            _forbid_new_rights()
            if "seccomp" in level:
                _forbid_syscalls()
        except OSError as error:
            _write_line({"error": str(error)})
            return
        _write_line({"answer": level})
        _serve(handler)

    def send(self, message: Any) -> None:
        """Send a JSON value, and start the clock for its answer. If the child is dead, [`receive`] raises."""
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

        Raises a [`SandboxError`] if the handler raised, or no readable answer came in time. The child has then been
        killed.
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
    program without privileges does not contain `eval`. Limits on resources leave files, network and processes within
    reach, and macOS does not enforce the limit on memory (`RLIMIT_AS`). An audit hook or the isolated mode (`-I`) of
    Python does not stop code inside the interpreter, which can undo the hook or call C. So there is no weaker level
    for other systems: what needs a sandbox is refused there, and what executes nothing runs without one.
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


def _call(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _prctl(option: int, value: Any) -> None:
    _call("prctl", option, value, 0, 0, 0)


def _enter_namespaces(scratch: str) -> None:
    """
    Leave the network and the other processes, and make the file system read-only but for an empty one at `scratch`.
    """
    if os.geteuid() == 0:
        # Root could still write to root's files. So the process becomes nobody, the only user in the namespace.
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
    """Give up the rights that the first process of a user namespace has in it."""
    header, nothing = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0] * 6)
    _call("capset", header, nothing)


def _set_limits(cpu_seconds: int, memory_bytes: int) -> None:
    """
    Limit processor time, memory beyond what is in use, open files and their size, and forbid new processes.

    Where the process already has a lower hard limit, as in jobs of batch systems, that one is kept.
    """
    with open("/proc/self/statm") as file:
        in_use = int(file.read().split()[0]) * resource.getpagesize()
    for kind, value in (
        (resource.RLIMIT_AS, in_use + memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, 16 << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (limit, limit))


def _forbid_syscalls() -> None:
    """Allow only the system calls needed to compute, and to read and write files that are already open."""
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
    # The calls of the x32 interface have other numbers, which are not on the list, so they are refused as well.
    remaining = len(_ALLOWED_SYSCALLS)
    for number in _ALLOWED_SYSCALLS:
        program.append(instruction(jump_equal, number, remaining, 0))
        remaining -= 1
    program += [instruction(give, not_permitted), instruction(give, allow)]
    code = ctypes.create_string_buffer(b"".join(program))
    head = struct.pack("@HP", len(program), ctypes.addressof(code))
    _call("prctl", _PR_SET_SECCOMP, 2, head, 0, 0)


def _end_with_parent() -> None:
    """Have this process killed when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _forbid_new_rights() -> None:
    """Keep this process from gaining rights by starting programs, which a filter of system calls requires."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
