"""
Imports packages in a separate process, so that a package whose import crashes does not end the report.

That process runs as `python -m rest_trl.lab.doctor.probe FILE PACKAGE ...` and writes a JSON object per line to FILE.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from .finding import brief


_TIMEOUT = 300  # seconds; vLLM alone can take half a minute


def probe(packages: Iterable[str]) -> dict[str, Any]:
    """
    Import packages in another process, which also asks torch for GPUs and accelerate for its default config.

    Args:
        packages (`Iterable[str]`):
            Names to import.

    Returns:
        `dict[str, Any]`: for each package `None` or what its import raised; `"gpus"`, a list of dicts, with `"cuda"`,
        the version that torch is built for; `"accelerate_config"`, a path. In place of either is `"gpus_error"` or
        `"accelerate_config_error"` if asking failed, and nothing if torch or accelerate could not be imported.
    """
    packages = list(packages)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "probe.jsonl"
        file.touch()
        command = [sys.executable, "-m", "rest_trl.lab.doctor.probe", str(file), *packages]
        try:
            # Some packages print, warn or ask a question when they are imported. The user sees none of it.
            run = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT
            )
            end = f"the process ended with {run.returncode}: {run.stderr.strip()[-200:]}"
        except subprocess.TimeoutExpired:
            end = f"it takes more than {_TIMEOUT} s"
        learned: dict[str, Any] = {}
        for line in file.read_text().splitlines():
            learned.update(json.loads(line))
    # A crash leaves the import or the question that it happened in without an entry, and what follows was not tried.
    blamed = ""
    for package in packages:
        if package not in learned:
            learned[package] = f"not tried, because {blamed} crashed or took too long" if blamed else end
            blamed = blamed or package
        elif learned[package] is None and package in _QUESTIONS:
            topic = _QUESTIONS[package][0]
            if not {topic, f"{topic}_error"} & learned.keys():
                learned[f"{topic}_error"] = end
                blamed = f"asking {package} for {topic}"
    return learned


def _gpus() -> dict[str, Any]:
    torch: Any = importlib.import_module("torch")
    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        gpus.append(
            {
                "name": properties.name,
                "memory": properties.total_memory,
                "capability": f"{properties.major}.{properties.minor}",
                # GPUs compute in bfloat16 from capability 8.0 on. On older ones torch emulates it, too slowly.
                "bf16": torch.version.hip is not None or properties.major >= 8,
            }
        )
    return {"gpus": gpus, "cuda": torch.version.cuda or torch.version.hip}


def _accelerate_config() -> dict[str, Any]:
    return {"accelerate_config": importlib.import_module("accelerate.commands.config.config_args").default_config_file}


# What a package is asked right after its import, so that no crash of a later one hides the answer.
_QUESTIONS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "torch": ("gpus", _gpus),
    "accelerate": ("accelerate_config", _accelerate_config),
}


def _import(package: str) -> dict[str, Any]:
    importlib.import_module(package)
    return {package: None}


def main() -> None:
    """Import the packages that the command line names, and end the process."""
    with Path(sys.argv[1]).open("a") as file:

        def note(key: str, learn: Callable[[], dict[str, Any]]) -> bool:
            try:
                learned, learnt = learn(), True
            except Exception as error:  # a broken package may raise anything, and that is the finding
                learned, learnt = {key: brief(error)}, False
            file.write(json.dumps(learned) + "\n")
            file.flush()
            return learnt

        for package in sys.argv[2:]:
            if note(package, partial(_import, package)) and package in _QUESTIONS:
                topic, ask = _QUESTIONS[package]
                note(f"{topic}_error", ask)
    os._exit(0)  # a library can leave threads that keep the interpreter from ending


if __name__ == "__main__":
    main()
