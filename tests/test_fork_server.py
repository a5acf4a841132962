import signal

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
