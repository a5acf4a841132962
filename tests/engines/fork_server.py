"""
Programs as forks of one process that has imported what they need: importing TRL takes longer than what most tests
train.

A fork is a process of its own, with its own environment, and it ends and can be killed as any other. What it cannot
have afresh is what modules read while they are imported: environment variables that they read then are those of the
server. The server has a single thread of Python, so a fork finds no lock that another thread holds.

What a fork starts with `sys.executable`, as the launchers of several ranks do, is a fork too: `sys.executable` is
there a stand-in for Python, a small program that asks the server for a fork, lends it its standard streams, and ends
as the fork does. If the stand-in is killed, so is the fork.
"""

import atexit
import gc
import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "PYTHONPATH": str(ROOT),
}


# The programs, and what they import when they train.
IMPORTED = (
    "rest_trl.train",
    "rest_trl.lab.sft",
    "rest_trl.lab.evaluation.evaluate",
    "transformers.models.qwen3.modeling_qwen3",
    "matplotlib.figure",
)

# The modules that a stand-in for Python runs in a fork, beside the programs of a path.
IN_FORKS = ("rest_trl.train", "rest_trl.lab.sft", "rest_trl.lab.study.worker")

STAND_IN = """\
#!{python} -IS
import sys
sys.path.insert(0, {folder!r})
from fork_server import stand_in
stand_in({python!r}, {address!r})
"""


class ForkServer:
    """
    The server, as a context manager; its forks end with it, and it ends with the process that has started it.

    Args:
        environment (`str`):
            Variables of the server, and of its forks, beside those of this process.

    Attributes:
        python (`str`):
            The stand-in for Python.
    """

    def __init__(self, **environment: str) -> None:
        self.environment = SETTINGS | environment
        self.ended: dict[int, int] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fork-server-")
        address, stand_in = (os.path.join(self._folder.name, name) for name in ("socket", "python"))
        Path(stand_in).write_text(
            STAND_IN.format(python=sys.executable, folder=os.path.dirname(__file__), address=address)
        )
        os.chmod(stand_in, 0o700)
        self.python = stand_in
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(64)  # who asks while the server still imports has to wait
            descriptors = theirs.fileno(), listener.fileno()
            self._process = subprocess.Popen(
                [sys.executable, __file__, *map(str, descriptors), stand_in],
                env=os.environ | self.environment,
                cwd=ROOT,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()
        self._process.wait()
        self._folder.cleanup()

    def start(self, *command: Any, ranks: int = 1, cwd: Path = ROOT, **environment: str) -> "Forks":
        """
        Start a program.

        Args:
            command:
                What would follow `python`: the path of a program, or `-m` and the name of a module, then arguments.
            ranks (`int`, *optional*, defaults to `1`):
                Processes, which find each other as those of `torchrun` do. A single one knows of no others.
            cwd (`Path`, *optional*):
                Its working directory; by default the root of the repository.
            environment (`str`):
                More variables, beside those of this process at the moment and of the server.
        """
        variables = os.environ | self.environment | environment
        return Forks(self, [str(word) for word in command], ranks, cwd, variables)

    def run(self, *command: Any, timeout: float = 300, **options: Any) -> list[subprocess.CompletedProcess[str]]:
        """
        Run a program to its end, with the arguments of [`start`]: one result for each rank.

        Raises:
            RuntimeError: If a rank has failed.
        """
        results = self.start(*command, **options).wait(timeout)
        if any(result.returncode for result in results):
            ends = [f"rank {i} ended with {result.returncode}: {result.stderr}" for i, result in enumerate(results)]
            raise RuntimeError("\n".join(ends))
        return results

    def fork(self, request: dict[str, Any]) -> int:
        """Id of a new process."""
        self._connection.send(request)
        while not isinstance(answer := self._connection.recv(), int):
            self.ended.update(answer)
        return answer

    def kill(self, pid: int) -> None:
        """Kill a fork, unless it has ended."""
        self._connection.send(pid)

    def receive(self, timeout: float) -> bool:
        """Learn of the next fork that ends, within `timeout` seconds; whether one did."""
        if ended := self._connection.poll(timeout):
            self.ended.update(self._connection.recv())
        return ended


class Forks:
    """The processes of one program: see [`ForkServer.start`]."""

    def __init__(
        self, server: ForkServer, command: list[str], ranks: int, cwd: Path, environment: Mapping[str, str]
    ) -> None:
        self._server, self._command = server, command
        self._folder = tempfile.TemporaryDirectory(prefix="forks-")
        shared = {}
        if ranks > 1:
            from torch.distributed import TCPStore

            # As that of torchrun's agent, so that no rank must open a port that another program may have taken.
            self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            shared = {
                "WORLD_SIZE": str(ranks),
                "LOCAL_WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "TORCHELASTIC_RESTART_COUNT": "0",
            }
        self.pids = []
        for rank in range(ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            request = {
                "command": command,
                "cwd": str(cwd),
                "environment": {**environment, **shared, **own},
                "streams": [os.devnull, *(self._output(rank, stream) for stream in ("stdout", "stderr"))],
            }
            self.pids.append(server.fork(request))

    def _output(self, rank: int, stream: str) -> str:
        return os.path.join(self._folder.name, f"{stream}{rank}")

    @property
    def returncodes(self) -> list[int | None]:
        """Of each rank, `None` while it runs."""
        while self._server.receive(0):
            pass
        return [self._server.ended.get(pid) for pid in self.pids]

    def kill(self) -> None:
        """Kill those that run, and wait for their end."""
        for pid in self.pids:
            self._server.kill(pid)
        while None in self.returncodes:
            self._server.receive(1)

    def wait(self, timeout: float = 300) -> list[subprocess.CompletedProcess[str]]:
        """
        Wait for the end of all ranks; where one fails, the others are killed.

        Raises:
            TimeoutError: If they take more than `timeout` seconds; then all are killed.
        """
        deadline = time.monotonic() + timeout
        try:
            while None in self.returncodes and not any(self.returncodes):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self._command} has not ended in {timeout} seconds: {self._results()}")
                self._server.receive(1)
        finally:
            self.kill()
        return self._results()

    def _results(self) -> list[subprocess.CompletedProcess[str]]:
        results = []
        for rank, code in enumerate(self.returncodes):
            outputs = [Path(self._output(rank, stream)) for stream in ("stdout", "stderr")]
            texts = [path.read_text(errors="replace") if path.exists() else "" for path in outputs]
            results.append(subprocess.CompletedProcess(self._command, code, *texts))
        return results


def serve(connection: Connection, listener: socket.socket) -> list[str]:
    """The server's loop: it ends with the connection, and returns, to every fork, the command that it is to run."""
    running: dict[int, Connection] = {}  # whom to tell of the end of each fork
    with listener:
        while True:
            stand_ins = {asker for asker in running.values() if asker is not connection}
            for ready in wait([connection, listener, *stand_ins], 0.02 if running else None):
                if ready is listener:
                    asker = Connection(listener.accept()[0].detach())
                    stand_ins.add(asker)
                    try:
                        request = asker.recv()
                    except EOFError:  # it was killed before it could say what it is to be
                        continue
                elif ready is connection:
                    asker = connection
                    try:
                        request = connection.recv()
                    except EOFError:
                        for pid in running:
                            os.kill(pid, signal.SIGKILL)
                        os._exit(0)
                    if isinstance(request, int):
                        if request in running:
                            os.kill(request, signal.SIGKILL)
                        continue
                else:  # it sends nothing more, so it has ended before its fork
                    for pid in [pid for pid, asker in running.items() if asker is ready]:
                        os.kill(pid, signal.SIGKILL)
                        running[pid] = connection
                    ready.close()
                    continue
                if pid := os.fork():
                    running[pid] = asker
                    with suppress(BrokenPipeError):
                        asker.send(pid)
                else:
                    for other in (connection, *stand_ins):
                        other.close()
                    return prepare(**request)
            for pid in sorted(running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    asker, code = running.pop(pid), os.waitstatus_to_exitcode(status)
                    if asker is connection:
                        connection.send({pid: code})
                        continue
                    with asker, suppress(BrokenPipeError):
                        asker.send(code)


def prepare(command: list[str], cwd: str, environment: dict[str, str], streams: list[str]) -> list[str]:
    """Make a fork what a new process would be, and return its command."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.executable = sys.argv[3]
    for descriptor, path in enumerate(streams):
        # Appending, because several processes may write to one file.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND if descriptor else os.O_RDONLY)
        os.dup2(file, descriptor)
        os.close(file)
    return command


def stand_in(python: str, address: str) -> None:
    """Run what follows the name of this program as Python does: what trains in a fork, all else in Python itself."""
    command = [word for word in sys.argv[1:] if word != "-u"]
    if not (command[0].endswith(".py") or (command[0] == "-m" and command[1] in IN_FORKS)):
        os.execv(python, [python, *sys.argv[1:]])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        connection = Connection(client.detach())
    streams = [f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in range(3)]
    connection.send({"command": command, "cwd": os.getcwd(), "environment": dict(os.environ), "streams": streams})
    pid = connection.recv()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    code = connection.recv()
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def run_program(program: str, *arguments: str) -> int:
    """Run what would follow `python`, and return the status with which it would end."""
    try:
        if program == "-m":
            sys.path[0] = os.getcwd()
            sys.argv[:] = arguments
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = os.path.dirname(program)
            sys.argv[:] = [program, *arguments]
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    status = 1  # of a fork that cannot be prepared

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    # Registered first, so it comes last, when threads have ended and all else that the program wants at its end is
    # done. To free the modules, as the interpreter would, a fork had to copy them: that takes seconds.
    atexit.register(leave)

    for module in IMPORTED:
        importlib.import_module(module)
    importlib.import_module("rest_trl.lab.tiny").render_rows("tiny", "train", 2048, 0)  # most of them train on these
    # A collection in a fork, which every training begins with, else visits, and so copies, all that is imported here.
    gc.freeze()
    connection, listener = Connection(int(sys.argv[1])), socket.socket(fileno=int(sys.argv[2]))
    status = run_program(*serve(connection, listener))


if __name__ == "__main__":
    main()
