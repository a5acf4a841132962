"""
Calls into the official BFCL packages.

[`driver`](driver.py) loads this file by its path, because `rest_trl` cannot be imported in the isolated environments.
"""

import csv
import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import inspect
import keyword
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

    def entry(self, category: str, sample: str) -> tuple[dict[str, Any], Any]:
        """A question in the form that the official checkers take, and its gold answer."""
        self._read(category)
        if sample not in self._entries[category]:
            raise KeyError(f"{category} has no sample {sample}")
        return self._entries[category][sample]

    def size(self, category: str) -> int:
        """The number of questions of a category."""
        self._read(category)
        return len(self._entries[category])

    def _read(self, category: str) -> None:
        if category not in self._entries:
            entries = self._load(category, hints=False)
            answers = self._answers(category) or [None] * len(entries)
            if len(answers) != len(entries):
                raise RuntimeError(f"{category} has {len(entries)} questions, but {len(answers)} answers")
            both = zip(entries, answers, strict=True)
            self._entries[category] = {entry["id"]: (entry, answer) for entry, answer in both}

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

    The model's own text is never evaluated. The text written here consists of the name of a known tool, identifiers as
    names of parameters, and literals. Returns it and, if the call cannot be executed, the reason (else empty).
    """
    name, arguments = call["name"], call["arguments"]
    if name not in tools:
        return UNKNOWN_CALL, f"name '{name}' is not defined"
    for key in arguments:
        if not key.isidentifier() or keyword.iskeyword(key):
            return UNKNOWN_CALL, f"'{key}' is no name of a parameter"
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

    # The official code keeps the state of simulators under this name, so each rollout needs a name of its own.
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
