"""The client of the process in which the official BFCL package runs."""

import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from ....tool_calls import ToolCall
from ..sandbox import LEVELS, Limits
from .environment import environment_python
from .questions import AVERAGES, BFCLError, Calls, Case, DialogueCalls, Verdict, check_category, encode


logger = logging.getLogger(__name__)


class OfficialBFCL:
    """
    The official package of a BFCL version, in its isolated environment, as a context manager.

    Calls are executed only for dialogues, and only in the sandbox of [`rest_trl.lab.evaluation.sandbox`], a new one
    for every dialogue. Where a machine allows no sandbox, the other categories can still be scored: their official
    checkers compare values and execute nothing.

    `sandbox` is the level of the sandbox, empty if this machine allows none; `refusal` then says why and what to do.
    `max_steps` is the number of steps that a turn may have, the last of which must be without calls.
    """

    def __init__(self, version: str, root: Path | None = None, limits: Limits | None = None) -> None:
        self.version = version
        python = environment_python(version, root)
        self._folder = tempfile.TemporaryDirectory(prefix="bfcl-")
        home = self._folder.name
        os.chmod(home, 0o711)  # root's sandbox runs as the user nobody, who must be able to enter
        self._stderr = tempfile.TemporaryFile("w+", dir=home)  # noqa: SIM115 -- open as long as the process
        # The process gets nothing of the user's environment, which may hold secrets that executed calls could read.
        environment = {"PATH": os.defpath, "HOME": home, "TMPDIR": home, "BFCL_PROJECT_ROOT": home, "LANG": "C.UTF-8"}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        program = Path(__file__).with_name("official.py")
        self._process = subprocess.Popen(
            [str(python), "-I", str(program), version, json.dumps(asdict(limits or Limits()))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            env=environment,
            cwd=home,
        )
        try:
            description = self._ask("describe")
        except BaseException:
            self.close()
            raise
        self.sandbox: str = description["sandbox"]
        self.refusal: str = description["refusal"]
        self.max_steps: int = description["max_steps"]
        if self.sandbox and self.sandbox != LEVELS[0]:
            logger.warning(f"calls are executed in a weaker sandbox than usual: {self.sandbox} instead of {LEVELS[0]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and all that it started."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()
        self._folder.cleanup()

    def _ask(self, request: str, **fields: Any) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps({"request": request, **fields}) + "\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # the process is dead: the answer below is empty, and the error says why
        if not (line := stdout.readline()):
            self._stderr.seek(0)
            raise BFCLError(f"the process of BFCL {self.version} died:\n{self._stderr.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise BFCLError(f"BFCL {self.version}, {request}: {answer['error']}")
        return answer["answer"]

    def cases(self, category: str) -> list[Case]:
        """The questions of one of the [`CATEGORIES`] of the version."""
        check_category(self.version, category)
        cases = []
        for case in self._ask("cases", category=category):
            added = {int(turn): functions for turn, functions in case.pop("functions_added").items()}
            cases.append(Case(**case, functions_added=added))
        return cases

    def answers(self, category: str) -> dict[str, Any]:
        """The official gold answers by sample id; `None` where only the presence of a call is checked."""
        check_category(self.version, category)
        return self._ask("answers", category=category)

    def check(self, category: str, sample: str, calls: Calls | DialogueCalls) -> Verdict:
        """Score a sample by the official checker: its calls, or those of every step of every turn that was begun."""
        try:
            text = encode(calls)
        except (ValueError, RecursionError) as error:
            return Verdict(valid=False, error_type="unreadable_calls", error=str(error))
        return Verdict(**self._ask("check", category=category, sample=sample, calls=text))

    def open(self, rollout: str, category: str, sample: str) -> None:
        """Start the simulators of a dialogue for a new rollout, and end an open one of the same name first."""
        self._ask("open", rollout=rollout, category=category, sample=sample)

    def step(self, calls: Mapping[str, Sequence[ToolCall]]) -> dict[str, list[str] | None]:
        """
        Execute calls of several rollouts at once: by name, the results as the official executor writes them.

        `None` means that the calls broke a limit, and that the rollout has been closed.
        """
        texts, results = {}, dict[str, list[str] | None]()
        for rollout, rollout_calls in calls.items():
            try:
                texts[rollout] = encode(rollout_calls)
            except (ValueError, RecursionError):
                texts[rollout] = "unreadable"
        for rollout, answer in self._ask("step", calls=texts).items():
            if "error" in answer:
                logger.warning(f"rollout {rollout} was ended: {answer['error']}")
            results[rollout] = answer.get("results")
        return results

    def close_rollout(self, rollout: str) -> None:
        """End the simulators of an open rollout. Those that broke a limit have been closed by [`step`]."""
        self._ask("close", rollout=rollout)

    def averages(self, accuracies: Mapping[str, tuple[float, int]]) -> dict[str, float | str]:
        """
        The official averages in percent, rounded as in the official tables, or the reason why one is not given.

        `accuracies` holds the accuracy in [0, 1] and the number of samples of each category that was run.
        """
        official = self._ask("averages", accuracies={name: list(value) for name, value in accuracies.items()})
        counts, sizes = {name: count for name, (_, count) in accuracies.items()}, official["sizes"]
        averages: dict[str, float | str] = {}
        for name, (table, column, categories) in AVERAGES[self.version].items():
            lacking = [f"{category} not run" for category in categories if category not in counts]
            lacking += [
                f"{category} has {counts[category]} of {sizes[category]} samples"
                for category in categories
                if category in counts and counts[category] != sizes[category]
            ]
            reasons = ", ".join(lacking)
            averages[name] = (
                f"not given: {reasons}" if lacking else float(official["tables"][table][column].rstrip("%"))
            )
        return averages
