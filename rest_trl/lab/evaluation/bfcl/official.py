"""
Program that runs in the isolated environment of a BFCL version: `python -I official.py VERSION LIMITS`.

It reads requests and writes answers, one JSON object per line. Everything that decides a score is done by the
official package. The dependencies of `rest_trl` are not in that environment, so it cannot be imported: the sandbox is
loaded by its path.
"""

import csv
import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import keyword
import os
import sys
import tempfile
import types
import uuid
from pathlib import Path
from typing import Any


MODEL = "rest-trl"  # the official code reads `_` in the name of a model as `/`
UNKNOWN_CALL = "no_such_tool()"


class _HostedModels(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """
    Imports empty classes in place of the official handlers of models.

    The registry imports all handlers, and the handlers import the clients of their services, 70 packages in all.
    Scoring needs none of them.
    """

    packages = ("bfcl_eval.model_handler.api_inference.", "bfcl_eval.model_handler.local_inference.")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name.startswith(self.packages) else None

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__["__getattr__"] = lambda name: type(name, (), {})


def register_model(handler: type) -> None:
    """Add our model to the official registry. It writes the names of functions as they are, with their dots."""
    sys.meta_path.insert(0, _HostedModels())
    from bfcl_eval.constants.model_config import MODEL_CONFIG_MAPPING, ModelConfig

    values: dict[str, Any] = {field.name: MODEL for field in dataclasses.fields(ModelConfig)}
    values |= {"model_handler": handler, "input_price": None, "output_price": None}
    values |= {"is_fc_model": True, "underscore_to_dot": False}
    MODEL_CONFIG_MAPPING[MODEL] = ModelConfig(**values)


class Official:
    """The questions and answers of the official package, whose two versions keep them differently."""

    def __init__(self, version: str) -> None:
        from bfcl_eval import utils
        from bfcl_eval.constants import category_mapping, default_prompts, eval_config
        from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils

        self._version, self._utils, self._paths = version, utils, vars(eval_config)
        self._prefix = category_mapping.VERSION_PREFIX
        self._classes = multi_turn_utils.CLASS_FILE_PATH_MAPPING
        self._more_functions = default_prompts.DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC
        # The official loop compares after it has counted a step, so it makes one step more than the limit.
        self.max_steps = default_prompts.MAXIMUM_STEP_LIMIT + 1
        self._entries: dict[str, dict[str, tuple[dict[str, Any], Any]]] = {}

    def cases(self, category: str) -> list[dict[str, Any]]:
        """The questions of a category as a model is asked them."""
        cases = []
        for entry in self._load(category, hints=True):
            added = entry.get("missed_function", {})
            for turn in added:
                entry["question"][int(turn)] = [{"role": "user", "content": self._more_functions}]
            case = {"id": entry["id"], "turns": entry["question"], "functions": entry["function"]}
            cases.append(case | {"functions_added": added})
        return cases

    def entries(self, category: str) -> dict[str, tuple[dict[str, Any], Any]]:
        """The questions in the form that the official checkers take, and their gold answers, by sample id."""
        if category not in self._entries:
            entries = self._load(category, hints=False)
            answers = self._answers(category) or [None] * len(entries)
            if len(answers) != len(entries):
                raise RuntimeError(f"{category} has {len(entries)} questions, but {len(answers)} answers")
            both = zip(entries, answers, strict=True)
            self._entries[category] = {entry["id"]: (entry, answer) for entry, answer in both}
        return self._entries[category]

    def entry(self, category: str, sample: str) -> tuple[dict[str, Any], Any]:
        """One of the entries of a category."""
        if sample not in self.entries(category):
            raise KeyError(f"{category} has no sample {sample}")
        return self.entries(category)[sample]

    def _load(self, category: str, hints: bool) -> list[dict[str, Any]]:
        if self._version == "v4":
            return self._utils.load_dataset_entry(category, include_prereq=False, include_language_specific_hint=hints)
        from bfcl_eval._llm_response_generation import process_multi_turn_test_case
        from bfcl_eval.model_handler.utils import func_doc_language_specific_pre_processing

        path = self._paths["PROMPT_PATH"] / f"{self._prefix}_{category}.json"
        entries = process_multi_turn_test_case(self._utils.load_file(path, sort_by_id=True))
        for entry in entries if hints else ():
            entry["function"] = func_doc_language_specific_pre_processing(entry["function"], category)
        return entries

    def _answers(self, category: str) -> list[Any]:
        if self._utils.is_relevance_or_irrelevance(category):
            return []
        path = self._paths["POSSIBLE_ANSWER_PATH"] / f"{self._prefix}_{category}.json"
        return [line["ground_truth"] for line in self._utils.load_file(path, sort_by_id=self._version == "v3")]

    def language(self, category: str) -> Any:
        """The official name of the programming language of a category's functions."""
        name = "JavaScript" if "javascript" in category else "Java" if "java" in category else "Python"
        if self._version == "v3":
            return name
        from bfcl_eval.constants.enums import Language

        return Language[name.upper()]

    def tools(self, entry: dict[str, Any]) -> set[str]:
        """Names of the simulators' methods, which the official executor may call. This imports the simulators."""
        names = set()
        for name in entry["involved_classes"]:
            simulator = vars(importlib.import_module(self._classes[name]))[name]
            names |= {method for method, _ in inspect.getmembers(simulator, inspect.isfunction) if method[0] != "_"}
        return names

    def overall(self, accuracies: dict[str, list[float]]) -> dict[str, dict[str, str]]:
        """The official tables as `{file: {column: text}}`, for `{category: [accuracy, number of samples]}`."""
        from bfcl_eval.eval_checker.eval_runner_helper import generate_leaderboard_csv

        scores = {name: {"accuracy": value, "total_count": count} for name, (value, count) in accuracies.items()}
        tables = {}
        with tempfile.TemporaryDirectory() as folder:
            generate_leaderboard_csv({MODEL: scores}, Path(folder))
            for path in sorted(Path(folder).glob("*.csv")):
                with path.open() as file:
                    tables[path.stem] = next(iter(csv.DictReader(file)))
        return tables


def render_call(call: Any, tools: set[str]) -> tuple[str, str]:
    """
    Write a call as the text that the official executor evaluates.

    The model's text is never evaluated. The text written here consists of the name of a known tool, identifiers as
    names of parameters, and literals. Returns it and, if the call cannot be executed, the reason (else empty).
    """
    name, arguments = call["name"], call["arguments"]
    if name not in tools:
        return UNKNOWN_CALL, f"name '{name}' is not defined"
    for key in arguments:
        if not key.isidentifier() or keyword.iskeyword(key):
            return UNKNOWN_CALL, f"'{key}' is not the name of a parameter"
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})", ""


def make_worker(entry: dict[str, Any], answer: Any) -> Any:
    """
    Make the function that answers messages in a sandboxed child.

    The message `{"step": [text]}` executes calls, and `{"check": [[[text]]]}` scores a whole dialogue.
    """
    # A simulator imports this when it parses its first date. By then the sandbox lets no file be opened.
    importlib.import_module("_strptime")

    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import execute_multi_turn_func_call

    # The official code keeps the state of simulators under this name, so each rollout needs another one.
    tag = f"{MODEL}-{uuid.uuid4().hex}"
    category = entry["id"].rsplit("_", 1)[0]
    setting = {
        "initial_config": entry["initial_config"],
        "involved_classes": entry["involved_classes"],
        "model_name": tag,
        "test_entry_id": entry["id"],
        "long_context": "long_context" in category,
    }

    def work(message: Any) -> Any:
        if "step" in message:
            return execute_multi_turn_func_call(message["step"], **setting)[0]
        result = multi_turn_checker(message["check"], answer, entry, category, tag)
        return {key: result.get(key, "") for key in ("valid", "error_message", "error_type")}

    return work


class Server:
    """Answers requests: each public method handles one kind, with the request's fields as its arguments."""

    def __init__(self, version: str, limits: dict[str, Any]) -> None:
        register_model(object)
        self._official = Official(version)
        path = Path(__file__).parent.parent / "sandbox.py"
        spec: Any = importlib.util.spec_from_file_location("sandbox", path)
        self._sandbox: Any = importlib.util.module_from_spec(spec)
        sys.modules["sandbox"] = self._sandbox
        spec.loader.exec_module(self._sandbox)
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
        return {sample: answer for sample, (_, answer) in self._official.entries(category).items()}

    def averages(self, accuracies: dict[str, list[float]]) -> dict[str, Any]:
        """The official tables of `{category: [accuracy, number of samples]}`, and how many samples there should be."""
        sizes = {category: len(self._official.entries(category)) for category in accuracies}
        return {"tables": self._official.overall(accuracies), "sizes": sizes}

    def open(self, rollout: str, category: str, sample: str) -> None:
        """Start the simulators of a dialogue under the name of a rollout."""
        if rollout in self._rollouts:  # it was left open by a run that broke off
            self.close(rollout)
        self._rollouts[rollout] = self._start(*self._official.entry(category, sample))

    def _start(self, entry: dict[str, Any], answer: Any) -> tuple[Any, set[str]]:
        self._need_sandbox()
        tools = self._official.tools(entry)
        return self._sandbox.SandboxedChild(make_worker(entry, answer), self._limits, self._level), tools

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
                rendered = [render_call(call, tools) for call in json.loads(text)]
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
        result = ast_checker(entry["function"], decoded, answer, self._official.language(category), category, MODEL)
        error = "" if result["valid"] else str(result["error"])
        return {"valid": result["valid"], "error_type": result.get("error_type", "") if error else "", "error": error}

    def _check_dialogue(self, entry: dict[str, Any], answer: Any, turns: Any) -> dict[str, Any]:
        if turns is None or len(turns) != len(answer):
            count = f"{len(turns or ())} of {len(answer)} turns"
            return {"valid": False, "error_type": "multi_turn:force_terminated", "error": count}
        child, tools = self._start(entry, answer)
        # As in the official loop, steps without a readable call are left out.
        rendered = [[[render_call(call, tools)[0] for call in step] for step in turn if step] for turn in turns]
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
