"""Functions that take rights away from the process that calls them: namespaces, limits, a filter of system calls."""

import ctypes
import os
import platform
import resource
import signal
import struct
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


def _call(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _prctl(option: int, value: Any) -> None:
    _call("prctl", option, value, 0, 0, 0)


def enter_namespaces(scratch: str) -> None:
    """
    Leave the network and the other processes behind, and make the file system read-only.

    Args:
        scratch (`str`):
            A folder. An empty file system in memory is mounted over it, and files can be written only there.

    Raises:
        OSError: if the machine does not allow it.
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


def drop_capabilities() -> None:
    """
    Give up the rights that the first process of a user namespace has in it.

    Raises:
        OSError: if the machine does not allow it.
    """
    header, nothing = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0] * 6)
    _call("capset", header, nothing)


def set_limits(cpu_seconds: int, memory_bytes: int) -> None:
    """
    Limit processor time, memory, open files and their size, and forbid new processes.

    Where the process already has a lower hard limit, as in jobs of batch systems, that one is kept.

    Args:
        cpu_seconds (`int`):
            Processor time in seconds.
        memory_bytes (`int`):
            Address space beyond what is in use.

    Raises:
        OSError: if the memory in use cannot be read.
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


def forbid_syscalls() -> None:
    """
    Allow only the system calls that are needed to compute, and to read and write files that are already open.

    Raises:
        OSError: if the processor is not x86-64, or the machine does not allow the filter.
    """
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


def end_with_parent() -> None:
    """
    Have this process killed when its parent ends.

    Raises:
        OSError: if the machine does not allow it.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def forbid_new_rights() -> None:
    """
    Keep this process from gaining rights by starting programs. A filter of system calls requires this.

    Raises:
        OSError: if the machine does not allow it.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
