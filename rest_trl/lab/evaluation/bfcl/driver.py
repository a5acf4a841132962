"""
Program that runs in the isolated environment of a BFCL version: `python -I driver.py VERSION LIMITS`.

It reads requests and writes answers, one JSON object per line. Everything that decides a score is done by the
official package. The dependencies of `rest_trl` are not in that environment, so it cannot be imported: those of its
files that are needed are loaded by path.
"""

import importlib.util
import json
import os
import sys
import types
from pathlib import Path
from typing import Any


def load(name: str, path: Path) -> types.ModuleType:
    """The module in that file."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no module")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Server:
    """Answers requests: each public method handles one kind, with the request's fields as its arguments."""

    def __init__(self, version: str, limits: dict[str, Any]) -> None:
        folder = Path(__file__).parent
        self._functions = load("official", folder / "official.py")
        self._functions.register_model(object)
        self._official = self._functions.Official(version)
        self._sandbox = load("sandbox", folder.parent / "sandbox" / "__init__.py")
        self._limits = self._sandbox.Limits(**limits)
        self._level, self._refusal = "", ""
        try:
            self._level = self._sandbox.strongest_level()
        except self._sandbox.SandboxError as error:
            # Only dialogues execute calls. Without a sandbox, dialogues are refused and all else is scored.
            self._refusal = str(error)
        self._rollouts: dict[str, tuple[Any, set[str]]] = {}

    def describe(self) -> dict[str, Any]:
        """The level of the sandbox, or why there is none, and how many steps a turn may have."""
        return {"sandbox": self._level, "refusal": self._refusal, "max_steps": self._official.max_steps}

    def cases(self, category: str) -> list[dict[str, Any]]:
        """The questions of a category as a model is asked them."""
        return self._official.cases(category)

    def answers(self, category: str) -> dict[str, Any]:
        """The gold answers of a category by sample id."""
        return {case["id"]: self._official.entry(category, case["id"])[1] for case in self._official.cases(category)}

    def sizes(self, categories: list[str]) -> dict[str, int]:
        """The number of questions of each category."""
        return {category: self._official.size(category) for category in categories}

    def overall(self, accuracies: dict[str, list[float]]) -> dict[str, dict[str, str]]:
        """The official tables of `{category: [accuracy, number of samples]}`."""
        return self._official.overall(accuracies)

    def open(self, rollout: str, category: str, sample: str) -> None:
        """Start the simulators of a dialogue under the name of a rollout."""
        if rollout in self._rollouts:  # it was left open by a run that broke off
            self.close(rollout)
        self._rollouts[rollout] = self._start(*self._official.entry(category, sample))

    def _start(self, entry: dict[str, Any], answer: Any) -> tuple[Any, set[str]]:
        self._need_sandbox()
        tools = self._official.tools(entry)
        return self._sandbox.SandboxedChild(
            self._functions.make_worker(entry, answer), self._limits, self._level
        ), tools

    def _need_sandbox(self) -> None:
        if not self._level:
            raise self._sandbox.SandboxError(self._refusal)

    def step(self, calls: dict[str, str]) -> dict[str, Any]:
        """Execute the calls in `{rollout: JSON of a list of calls}`, and return their results or an error for each."""
        answers: dict[str, Any] = {}
        refused: dict[str, list[str]] = {}
        for rollout, text in calls.items():
            child, tools = self._rollouts[rollout]
            try:
                rendered = [self._functions.render_call(call, tools) for call in json.loads(text)]
            except (ValueError, RecursionError) as error:
                answers[rollout] = {"error": f"unreadable calls: {error}"}
                self.close(rollout)
                continue
            refused[rollout] = [why for _, why in rendered]
            child.send({"step": [call for call, _ in rendered]})
        for rollout, whys in refused.items():
            try:
                results = self._rollouts[rollout][0].receive()
            except self._sandbox.SandboxError as error:
                answers[rollout] = {"error": str(error)}
                self.close(rollout)
                continue
            both = zip(results, whys, strict=True)
            answers[rollout] = {"results": [f"Error during execution: {why}" if why else text for text, why in both]}
        return answers

    def close(self, rollout: str) -> None:
        """End the simulators of a rollout."""
        self._rollouts.pop(rollout)[0].close()

    def check(self, category: str, sample: str, calls: str) -> dict[str, Any]:
        """Score a sample. `calls` is JSON: a list of calls, null, or for a dialogue a list of turns of steps."""
        entry, answer = self._official.entry(category, sample)
        if category.startswith("multi_turn"):
            self._need_sandbox()
        try:
            value = json.loads(calls)
            if category.startswith("multi_turn"):
                return self._check_dialogue(entry, answer, value)
            return self._check_calls(category, entry, answer, value)
        # Strange calls can make an official checker raise. That would end an official run; here the sample is wrong.
        except Exception as error:
            return {"valid": False, "error_type": "checker_failed", "error": f"{type(error).__name__}: {error}"}

    def _check_calls(self, category: str, entry: dict[str, Any], answer: Any, calls: Any) -> dict[str, Any]:
        from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

        if answer is None:
            valid = bool(calls) != ("irrelevance" in category)
            kind = "irrelevance_error:decoder_success" if calls else "relevance_error:decoder_failed"
            return {
                "valid": valid,
                "error_type": "" if valid else kind,
                "error": "" if valid else "a call" * bool(calls),
            }
        if calls is None:
            return {"valid": False, "error_type": "ast_decoder:decoder_failed", "error": "no readable calls"}
        decoded = [{call["name"]: call["arguments"]} for call in calls]
        language = self._official.language(category)
        result = ast_checker(entry["function"], decoded, answer, language, category, self._functions.MODEL)
        error = "" if result["valid"] else str(result["error"])
        return {"valid": result["valid"], "error_type": result.get("error_type", "") if error else "", "error": error}

    def _check_dialogue(self, entry: dict[str, Any], answer: Any, turns: Any) -> dict[str, Any]:
        if turns is None or len(turns) != len(answer):
            count = f"{len(turns or ())} of {len(answer)} turns"
            return {"valid": False, "error_type": "multi_turn:force_terminated", "error": count}
        child, tools = self._start(entry, answer)
        # As in the official loop, steps without a readable call are left out.
        rendered = [
            [[self._functions.render_call(call, tools)[0] for call in step] for step in turn if step] for turn in turns
        ]
        try:
            child.send({"check": rendered})
            result = child.receive()
        except self._sandbox.SandboxError as error:
            return {"valid": False, "error_type": "sandbox", "error": str(error)}
        finally:
            child.close()
        why = "" if result["valid"] else str(result["error_message"])
        return {"valid": result["valid"], "error_type": result["error_type"], "error": why}


def main() -> None:
    """Answer requests until the standard input ends."""
    # The official code prints to the standard output, so answers go to a copy of it, and prints go to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    version, limits = sys.argv[1:]
    server = Server(version, json.loads(limits))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": vars(Server)[request.pop("request")](server, **request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
