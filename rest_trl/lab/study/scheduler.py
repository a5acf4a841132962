"""Makes the runs of a study in parallel processes."""

import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch
from tqdm import tqdm

from ...runs.files import write_atomically
from .arms import Run, Study, StudyFolder


logger = logging.getLogger(__name__)

# Tiny models are faster on one thread, and with an allocator that keeps its memory.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "TOKENIZERS_PARALLELISM": "false",
}


class RunFailed(Exception):
    """A run that has ended without a result; the message is one line."""


RunFunction = Callable[[StudyFolder, Run, int], None]
"""Makes a run, with the number of the worker that it has, or raises [`RunFailed`]."""


class Processes:
    """Starts each run as a process, and ends all of them on [`close`](Processes.close)."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def __call__(self, folder: StudyFolder, run: Run, worker: int) -> None:
        """Make one run. The number of the worker chooses its GPU where there is one."""
        folder.work(run).mkdir(parents=True, exist_ok=True)
        log = folder.log(run)
        environment = {**os.environ, **_ENVIRONMENT, **_device(worker)}
        command = [sys.executable, "-m", "rest_trl.lab.study.worker", str(folder.directory), run[0], str(run[1])]
        with log.open("wb") as output, self._lock:
            if self._closed:
                raise RunFailed("the study was interrupted")
            # The run exits when its standard input closes, which happens even if this process is killed.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
            self._processes.add(process)
        status = process.wait()
        self._processes.discard(process)
        if status != 0 or not folder.result(run).exists():
            said = last_message(log.read_text(encoding="utf-8", errors="replace"))
            raise RunFailed(f"status {status}: {said[:500] or 'no output'}")

    def close(self) -> None:
        """End all runs, and let none begin."""
        with self._lock:
            self._closed = True
            for process in list(self._processes):
                process.kill()


def last_message(log: str) -> str:
    r"""
    What a program has said last, in one line: its error without the traceback, or its last line.

    ```python
    >>> last_message("step 1\nTraceback (most recent call last):\n  File ...\nValueError: no data:\n  give some")
    'ValueError: no data: give some'

    ```
    """
    lines = log.strip().splitlines()
    start = max((number for number, line in enumerate(lines) if line.startswith("Traceback (most")), default=None)
    if start is None:
        return lines[-1] if lines else ""
    error = next((number for number in range(start + 1, len(lines)) if not lines[number].startswith(" ")), start)
    return " ".join(" ".join(lines[error:]).split())


def _device(worker: int) -> dict[str, str]:
    """The environment that gives a worker one of the GPUs."""
    count = torch.cuda.device_count()
    if count == 0:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(index) for index in range(count)]
    return {"CUDA_VISIBLE_DEVICES": devices[worker % len(devices)]}


def default_workers(study: Study) -> int:
    """One run per GPU; without one, or if all arms are on the CPU, one per core that this process may use."""
    if torch.cuda.device_count() and not all(settings.get("use_cpu") for settings in study.arms.values()):
        return torch.cuda.device_count()
    # Not all systems tell which cores a process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_study(study: Study, folder: StudyFolder, run_function: RunFunction) -> None:
    """
    Make all runs of a study that are not there yet, seed by seed, so that the pairs of the first seeds are complete
    early.

    A run that fails leaves one line in the folder, and the others go on; the next start of the study tries it again.
    On an interruption no further run begins, and the caller must end those under way: this does not wait for them.
    """
    runs = [(arm, seed) for seed in study.seeds for arm in study.arms]
    missing = [run for run in runs if not folder.result(run).exists()]
    workers = min(study.workers or default_workers(study), max(1, len(missing)))
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for worker in range(workers):
        free.put(worker)

    def make(run: Run) -> None:
        worker = free.get()
        try:
            run_function(folder, run, worker)
        finally:
            free.put(worker)

    executor, said = ThreadPoolExecutor(workers), set[str]()
    try:
        futures = {executor.submit(make, run): run for run in missing}
        done = len(runs) - len(missing)
        with tqdm(total=len(runs), initial=done, desc="runs", unit="run", smoothing=0.1) as bar:
            for future in as_completed(futures):
                run = futures[future]
                try:
                    future.result()
                except RunFailed as error:
                    if str(error) not in said:  # most often, all runs have the same cause
                        logger.warning("arm %s, seed %s failed: %s (%s)", *run, error, folder.log(run))
                    said.add(str(error))
                    folder.work(run).mkdir(parents=True, exist_ok=True)
                    write_atomically(folder.failure(run), str(error))
                bar.update()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
