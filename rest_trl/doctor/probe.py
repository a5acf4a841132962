"""
Imports packages in a separate process, so that a package whose import crashes does not end the report.

That process runs as `python -m rest_trl.doctor.probe FILE PACKAGE ...` and writes a JSON object per line to FILE.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
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
        the version that torch is built for; `"accelerate_config"`, a path. What could not be learned is absent.
    """
    packages = list(packages)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "probe.jsonl"
        file.touch()
        command = [sys.executable, "-m", "rest_trl.doctor.probe", str(file), *packages]
        try:
            # Some packages print, warn or ask a question when they are imported. The user sees none of it.
            run = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT
            )
            end = f"the process ended with {run.returncode}: {run.stderr.strip()[-200:]}"
        except subprocess.TimeoutExpired:
            end = f"its import takes more than {_TIMEOUT} s"
        learned: dict[str, Any] = {}
        for line in file.read_text().splitlines():
            learned.update(json.loads(line))
    # A crash leaves the package that was being imported without an entry, and those after it were not tried.
    missing = [package for package in packages if package not in learned]
    if missing:
        learned[missing[0]] = end
        learned.update((package, f"not tried, because {missing[0]} could not be imported") for package in missing[1:])
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


def main() -> None:
    """Import the packages that the command line names, and end the process."""
    with Path(sys.argv[1]).open("a") as file:

        def note(learn: Callable[[], dict[str, Any]]) -> None:
            try:
                learned = learn()
            except Exception as error:  # a broken package may raise anything, and that is the finding
                learned = {"error": brief(error)}
            file.write(json.dumps(learned) + "\n")
            file.flush()

        for package in sys.argv[2:]:
            try:
                importlib.import_module(package)
                result = None
            except Exception as error:  # see above
                result = brief(error)
            file.write(json.dumps({package: result}) + "\n")
            file.flush()
        note(_gpus)
        note(_accelerate_config)
    os._exit(0)  # a library can leave threads that keep the interpreter from ending


if __name__ == "__main__":
    main()
