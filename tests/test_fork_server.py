import os
import signal
import subprocess
import time

import pytest


@pytest.fixture
def program(tmp_path):
    def write(text):
        (tmp_path / "program.py").write_text(text)
        return tmp_path / "program.py"

    return write


class TestForkServer:
    @pytest.mark.parametrize(
        ("text", "status", "error"),
        [
            ("import atexit, sys; atexit.register(print, 'end'); sys.exit(3)", 3, ""),
            ("import atexit, sys; atexit.register(print, 'end'); sys.exit('said why')", 1, "said why\n"),
            ("import atexit; atexit.register(print, 'end'); 1 / 0", 1, "ZeroDivisionError: division by zero\n"),
            ("import threading, time; threading.Timer(0.2, print, ['end']).start()", 0, ""),
        ],
    )
    def test_ends_a_program_as_the_interpreter_does(self, fork_server, program, text, status, error):
        (end,) = fork_server.start(program(text)).wait()
        assert (end.returncode, end.stdout) == (status, "end\n")
        assert end.stderr.endswith(error) and bool(end.stderr) == bool(error)

    def test_gives_arguments_directory_and_environment(self, fork_server, program, tmp_path, monkeypatch):
        monkeypatch.setenv("OF_THIS_PROCESS", "1")
        path = program("import os, sys; print(sys.argv[1:], os.getcwd(), sys.path[0], sorted(os.environ))")
        (end,) = fork_server.run(path, "a b", 2, cwd=tmp_path, OF_THE_PROGRAM="1")
        assert end.stdout.startswith(f"['a b', '2'] {tmp_path} {tmp_path} [")
        assert "'OF_THIS_PROCESS'" in end.stdout and "'OF_THE_PROGRAM'" in end.stdout and "'RANK'" not in end.stdout

    def test_raises_with_the_errors_of_all_ranks_where_one_fails(self, fork_server, program):
        path = program("import os, sys, time\nif os.environ['RANK'] == '0': time.sleep(300)\nsys.exit('no memory')")
        with pytest.raises(RuntimeError, match=r"rank 0 ended with -9: \nrank 1 ended with 1: no memory"):
            fork_server.run(path, ranks=2)

    def test_kills_what_takes_too_long(self, fork_server, program):
        forks = fork_server.start(program("import time; time.sleep(300)"))
        with pytest.raises(TimeoutError, match=r"has not ended in 0.1 seconds"):
            forks.wait(timeout=0.1)
        assert forks.returncodes == [-signal.SIGKILL]


class TestStandIn:
    """The Python of a fork, whose programs are forks too."""

    PROGRAM = "import os, sys; print(os.getppid(), 'trl' in sys.modules, sys.stdin.read(), os.environ['OF_IT'])"

    @pytest.fixture
    def start(self, fork_server, tmp_path):
        def start(*command):
            environment = {**os.environ, "OF_IT": "1"}
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            return subprocess.Popen(
                [fork_server.python, *map(str, command)], cwd=tmp_path, env=environment, text=True, **pipes
            )

        return start

    def test_runs_a_program_in_a_fork_with_its_own_streams_and_environment(self, start, program):
        process = start("-u", program(self.PROGRAM))
        out, error = process.communicate("asked")
        assert (process.returncode, error) == (0, "")
        parent, *others = out.split()
        assert int(parent) != process.pid and others == ["True", "asked", "1"]

    def test_is_python_itself_for_all_else(self, start):
        process = start("-c", self.PROGRAM)
        assert process.communicate("")[0].split() == [str(os.getpid()), "False", "1"]

    def test_is_that_of_a_fork(self, fork_server, program):
        (end,) = fork_server.run(program("import sys; print(sys.executable)"))
        assert end.stdout == f"{fork_server.python}\n"

    @pytest.mark.parametrize(
        ("text", "status"),
        [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL)],
    )
    def test_ends_as_its_fork_does(self, start, program, text, status):
        process = start(program(text))
        process.communicate()
        assert process.returncode == status

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_does_not_leave_its_fork_behind(self, start, program, number):
        process = start(program("import os, time; print(os.getpid(), flush=True); time.sleep(300)"))
        pid = int(process.stdout.readline())
        process.send_signal(number)
        process.communicate()
        assert process.returncode == -number
        deadline = time.monotonic() + 60
        while os.path.exists(f"/proc/{pid}"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
