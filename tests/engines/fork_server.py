"""
Programs as forks of one process that has imported what they need: importing TRL takes longer than what most tests
train.

A fork is a process of its own, with its own environment, and it ends and can be killed as any other. What it cannot
have afresh is what modules read while they are imported: environment variables that they read then are those of the
server. The server has a single thread of Python, so a fork finds no lock that another thread holds.
"""

import atexit
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
from multiprocessing.connection import Connection
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


class ForkServer:
    """
    The server, as a context manager; its forks end with it, and it ends with the process that has started it.

    Args:
        environment (`str`):
            Variables of the server, and of its forks, beside those of this process.
    """

    def __init__(self, **environment: str) -> None:
        self.environment = SETTINGS | environment
        self.ended: dict[int, int] = {}
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=os.environ | self.environment,
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()
        self._process.wait()

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
                "outputs": [self._output(rank, stream) for stream in ("stdout", "stderr")],
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


def serve(connection: Connection) -> list[str]:
    """The server's loop: it ends with the connection, and returns, to every fork, the command that it is to run."""
    running: set[int] = set()
    while True:
        if connection.poll(0.02 if running else None):
            try:
                request = connection.recv()
            except EOFError:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            if isinstance(request, int):
                if request in running:
                    os.kill(request, signal.SIGKILL)
            elif pid := os.fork():
                running.add(pid)
                connection.send(pid)
            else:
                connection.close()
                return prepare(**request)
        for pid in sorted(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.remove(pid)
                connection.send({pid: os.waitstatus_to_exitcode(status)})


def prepare(command: list[str], cwd: str, environment: dict[str, str], outputs: list[str]) -> list[str]:
    """Make a fork what a new process would be, and return its command."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for descriptor, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    return command


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
    status = 0

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    # Registered first, so it comes last, when threads have ended and all else that the program wants at its end is
    # done. To free the modules, as the interpreter would, a fork had to copy them: that takes seconds.
    atexit.register(leave)

    for module in IMPORTED:
        importlib.import_module(module)
    status = run_program(*serve(Connection(int(sys.argv[1]))))


if __name__ == "__main__":
    main()
