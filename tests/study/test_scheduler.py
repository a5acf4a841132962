import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from rest_trl.lab.study import scheduler
from rest_trl.lab.study.arms import Study, StudyFolder
from rest_trl.lab.study.scheduler import Processes, RunFailed, default_workers, run_study


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class FakeRuns:
    """Makes a table instead of a training, and notes what it was asked for."""

    def __init__(self, failing=(), interrupted=()):
        self.made, self.failing, self.interrupted = [], set(failing), set(interrupted)
        self.at_work, self.most_at_work, self.workers = set(), 0, set()
        self._lock = threading.Lock()

    def __call__(self, folder, run, worker):
        with self._lock:
            assert worker not in self.at_work, "two runs have the same worker"
            self.at_work.add(worker)
            self.most_at_work = max(self.most_at_work, len(self.at_work))
            self.workers.add(worker)
            self.made.append(run)
        try:
            time.sleep(0.02)
            if run in self.interrupted:
                raise KeyboardInterrupt
            if run in self.failing:
                raise RunFailed(f"no {run[0]} today")
            folder.save(run, pd.DataFrame({"arm": [run[0]], "seed": [run[1]], "step": [1]}))
        finally:
            with self._lock:
                self.at_work.remove(worker)


def make_study(directory, seeds=3, workers=1, arms=("base", "other")):
    return Study({arm: {"learning_rate": 1e-4} for arm in arms}, "base", tuple(range(seeds)), directory, workers)


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    folder.register(make_study(folder.directory))
    return folder


def runs_of(folder):
    results = folder.results()
    return list(zip(results["arm"], results["seed"], strict=True))


class TestRunStudy:
    def test_makes_pairs_complete_early(self, folder):
        runs = FakeRuns()
        run_study(make_study(folder.directory), folder, runs)
        assert runs.made == [("base", 0), ("other", 0), ("base", 1), ("other", 1), ("base", 2), ("other", 2)]
        assert sorted(runs_of(folder)) == sorted(runs.made)

    @pytest.mark.parametrize("workers", [1, 3])
    def test_has_as_many_runs_at_once_as_workers(self, folder, workers):
        runs = FakeRuns()
        run_study(make_study(folder.directory, workers=workers), folder, runs)
        assert runs.most_at_work <= workers and runs.workers <= set(range(workers))
        assert len(runs.made) == len(set(runs.made)) == 6

    def test_makes_no_finished_run_again(self, folder):
        run_study(make_study(folder.directory, seeds=2), folder, FakeRuns())
        more = FakeRuns()
        run_study(make_study(folder.directory, seeds=3), folder, more)
        assert more.made == [("base", 2), ("other", 2)]
        nothing = FakeRuns()
        run_study(make_study(folder.directory, seeds=3), folder, nothing)
        assert nothing.made == [] and len(runs_of(folder)) == 6

    def test_goes_on_after_a_failure_and_tries_it_again(self, folder):
        run_study(make_study(folder.directory), folder, FakeRuns(failing=[("other", 1)]))
        assert folder.failures() == {("other", 1): "no other today"}
        assert len(runs_of(folder)) == 5
        again = FakeRuns()
        run_study(make_study(folder.directory), folder, again)
        assert again.made == [("other", 1)] and folder.failures() == {} and len(runs_of(folder)) == 6

    def test_keeps_what_was_finished_before_an_interruption(self, folder):
        first = FakeRuns(interrupted=[("other", 1)])
        with pytest.raises(KeyboardInterrupt):
            run_study(make_study(folder.directory), folder, first)
        finished = set(runs_of(folder))
        assert {("base", 0), ("other", 0), ("base", 1)} <= finished and ("other", 1) not in finished
        second = FakeRuns()
        run_study(make_study(folder.directory), folder, second)
        assert not finished & set(second.made) and len(runs_of(folder)) == 6

    def test_an_interruption_waits_for_no_run_under_way(self, folder):
        released, started = threading.Event(), threading.Event()

        def runs(folder, run, worker):
            if run[0] == "other":
                started.wait(30)
                raise KeyboardInterrupt
            started.set()
            released.wait(30)

        begin = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            run_study(make_study(folder.directory, workers=2), folder, runs)
        assert time.monotonic() - begin < 15
        released.set()

    def test_says_a_cause_that_many_runs_have_once(self, folder, caplog):
        run_study(make_study(folder.directory), folder, FakeRuns(failing=[("other", seed) for seed in range(3)]))
        assert caplog.text.count("no other today") == 1 and len(folder.failures()) == 3

    def test_a_fault_of_the_program_is_no_failed_run(self, folder):
        def broken(folder, run, worker):
            raise AttributeError("a fault")

        with pytest.raises(AttributeError, match="a fault"):
            run_study(make_study(folder.directory), folder, broken)
        assert folder.failures() == {}


class TestProcesses:
    """With programs of a line instead of trainings."""

    @pytest.fixture
    def program(self, monkeypatch, tmp_path):
        def of(code):
            executable = tmp_path / "python"
            executable.write_text(f"#!{sys.executable}\nimport os, sys, time\n{code}\n")
            executable.chmod(0o755)
            monkeypatch.setattr(scheduler.sys, "executable", str(executable))

        return of

    def test_a_run_without_a_result_names_status_and_last_line(self, folder, program):
        program("print('first'); print('no memory'); sys.exit(3)")
        with pytest.raises(RunFailed, match=r"status 3: no memory$"):
            Processes()(folder, ("base", 0), 0)

    def test_success_without_a_result_is_a_failure(self, folder, program):
        program("pass")
        with pytest.raises(RunFailed, match="status 0: no output"):
            Processes()(folder, ("base", 0), 0)

    def test_gets_arm_seed_and_one_thread(self, folder, program):
        program("print(sys.argv[1:], os.environ['OMP_NUM_THREADS'])")
        with pytest.raises(RunFailed):
            Processes()(folder, ("base", 7), 0)
        line = (folder.work(("base", 7)) / "log.txt").read_text().strip()
        assert line == f"{['-m', 'rest_trl.lab.study.worker', str(folder.directory), 'base', '7']} 1"

    def test_closing_ends_runs_and_lets_none_begin(self, folder, program):
        program("time.sleep(60)")
        processes = Processes()
        failures = []

        def make():
            try:
                processes(folder, ("base", 0), 0)
            except RunFailed as error:
                failures.append(str(error))

        thread = threading.Thread(target=make)
        thread.start()
        deadline = time.monotonic() + 30
        while not processes._processes and time.monotonic() < deadline:
            time.sleep(0.01)
        processes.close()
        thread.join(30)
        assert failures and failures[0].startswith("status -9")
        with pytest.raises(RunFailed, match="interrupted"):
            processes(folder, ("base", 1), 0)

    def test_a_run_ends_with_the_study_that_was_killed(self, tmp_path):
        # The parent gives its child a pipe as the study does, and is killed without a chance to clean up.
        child = "import threading, time, rest_trl.lab.study.worker as run;"
        child += "threading.Thread(target=run._end_with_parent, daemon=True).start(); print('up', flush=True);"
        child += "time.sleep(300)"
        parent = (
            "import subprocess, sys, time\n"
            f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE)\n"
            "print(child.pid, flush=True); time.sleep(300)"
        )
        process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
        pid = int(process.stdout.readline())
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        # The child holds the other end of the pipe: it is closed when the child has ended.
        assert process.stdout.read() == ""
        process.stdout.close()
        # Its pipes close a moment before it is gone or, where nobody collects it, a zombie.
        deadline = time.monotonic() + 60
        while is_running(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


class TestWorkers:
    def test_are_cores_where_there_is_no_gpu(self, folder, monkeypatch):
        monkeypatch.setattr(scheduler.torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(scheduler.os, "sched_getaffinity", lambda pid: {0, 1, 2})
        assert default_workers(make_study(folder.directory)) == 3
        assert scheduler._device(1) == {}

    @pytest.mark.parametrize(("count", "workers"), [(4, 4), (None, 1)])
    def test_are_all_cores_on_a_system_that_does_not_tell_which(self, folder, monkeypatch, count, workers):
        monkeypatch.setattr(scheduler.torch.cuda, "device_count", lambda: 0)
        monkeypatch.delattr(scheduler.os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(scheduler.os, "cpu_count", lambda: count)
        assert default_workers(make_study(folder.directory)) == workers

    def test_are_gpus_one_for_each_run(self, folder, monkeypatch):
        monkeypatch.setattr(scheduler.torch.cuda, "device_count", lambda: 2)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
        assert default_workers(make_study(folder.directory)) == 2
        assert [scheduler._device(worker) for worker in range(3)] == [
            {"CUDA_VISIBLE_DEVICES": device} for device in ("4", "6", "4")
        ]
