import signal
import subprocess
import sys
import time

import pytest

from rest_trl.runs.lifetime import INTERRUPTED, TERMINATED, locked


CHILD = """\
import sys, time
from rest_trl.runs.endings import setup_errors
from rest_trl.runs.lifetime import ending_in_time, locked
with setup_errors("child"), ending_in_time(), locked(sys.argv[1]):
    print("started", flush=True)
    while True:
        time.sleep(0.05)
"""
LAUNCHER = f"""\
import subprocess, sys
from rest_trl.runs.lifetime import launching
with launching():
    sys.exit(subprocess.Popen([sys.executable, "-c", {CHILD!r}, *sys.argv[1:]]).wait())
"""


@pytest.fixture
def start(tmp_path):
    """Starts a program, waits until its training has the directory, and ends it if the test does not."""
    started = []

    def run(program):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "out")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background has the signal ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        assert process.stdout.readline() == "started\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def is_locked(output_dir):
    try:
        with locked(output_dir):
            return False
    except FileExistsError:
        return True


def wait_until_free(output_dir, seconds=20):
    deadline = time.monotonic() + seconds
    while is_locked(output_dir):
        assert time.monotonic() < deadline, "the training goes on"
        time.sleep(0.1)


class TestLocked:
    def test_refuses_a_second_training_until_the_first_has_ended(self, tmp_path):
        with locked(tmp_path / "out"):
            message = r"another training is running in .*out: wait for its end, or give another --output_dir"
            with pytest.raises(FileExistsError, match=message), locked(tmp_path / "out"):
                pass
            with locked(tmp_path / "other"):
                pass
        with locked(tmp_path / "out"):
            pass

    def test_leaves_nothing_behind(self, tmp_path):
        with locked(tmp_path / "new" / "out"):
            assert (tmp_path / "new" / "out").is_dir()
        assert not (tmp_path / "new" / "out").exists()
        (tmp_path / "a.txt").touch()
        with locked(tmp_path):
            pass
        assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "new"}

    def test_dies_with_its_process(self, start, tmp_path):
        process = start(CHILD)
        assert is_locked(tmp_path / "out")
        process.kill()
        process.wait()
        assert not is_locked(tmp_path / "out")

    def test_is_that_of_the_first_rank(self, tmp_path, monkeypatch):
        with locked(tmp_path):
            monkeypatch.setenv("RANK", "1")
            with locked(tmp_path):
                pass


class TestSignals:
    @pytest.mark.parametrize(
        ("number", "word", "status"),
        [(signal.SIGINT, "interrupted", INTERRUPTED), (signal.SIGTERM, "terminated", TERMINATED)],
    )
    @pytest.mark.parametrize("program", [CHILD, LAUNCHER], ids=["training", "launcher"])
    def test_end_the_training_and_its_launcher_with_one_line(self, start, tmp_path, program, number, word, status):
        process = start(program)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (status, f"child: {word} before training started\n")
        assert not is_locked(tmp_path / "out")

    def test_of_ctrl_c_come_twice_and_count_once(self, start):
        process = start(CHILD)
        process.send_signal(signal.SIGINT)  # of the terminal
        process.send_signal(signal.SIGINT)  # of the launcher
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (INTERRUPTED, "child: interrupted before training started\n")

    def test_that_nobody_can_pass_on_end_the_training_all_the_same(self, start, tmp_path):
        process = start(LAUNCHER)
        process.kill()
        process.wait()
        wait_until_free(tmp_path / "out")
