"""
`rest-trl doctor` reports what of the stack is installed, what a recipe and a server lack, and what to do about it.

```shell
rest-trl doctor
rest-trl doctor --config recipes/qwen3_8b.yaml --server http://localhost:8000
```

The report works where TRL, torch or vLLM cannot be imported: a package that is absent or broken is a finding.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...spelling import HintingParser
from .finding import Finding


__all__ = ["Finding", "examine", "main", "make_parser"]

_COLORS = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = HintingParser(
        "rest-trl doctor",
        description="Report what of the stack is installed, what a recipe and a server lack, and what to do about it. "
        "Exits with 1 if there is a problem.",
    )
    parser.add_argument(
        "--config", type=Path, metavar="RECIPE", help="also check that this recipe, a file or a name, can run here"
    )
    parser.add_argument("--arm", action="append", default=[], metavar="NAME", help="check the recipe with this arm")
    parser.add_argument("--study", metavar="NAME", help="which study, where the file holds several")
    parser.add_argument(
        "--accelerate_config", type=Path, metavar="FILE", help="a file, or a name like ddp (default: accelerate's own)"
    )
    parser.add_argument("--server", metavar="URL", help="also check this vLLM server (default: the recipe's)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def examine(
    config: Path | None = None,
    server: str | None = None,
    accelerate_config: Path | None = None,
    arms: Sequence[str] = (),
    study: str | None = None,
) -> Iterator[Finding]:
    """Yield all findings in the order of the report; the arguments are those of the command line."""
    from ...runs.recipes import find_recipe, read_recipe, with_arms
    from . import machine, model_and_data, packages, probe, recipe
    from .vllm_server import recipe_server_url, server_findings

    yield packages.python_finding()
    installed = [name for name in (*packages.IMPORTED, *packages.OPTIONAL) if packages.installed_version(name)]
    learned = probe.probe(installed)
    yield from packages.package_findings(learned)
    gpus = len(learned["gpus"]) if "gpus" in learned else None
    yield machine.gpu_finding(learned)
    yield machine.cpu_finding()
    values: dict[str, Any] = {}
    runs: list[dict[str, Any]] = []
    failure = None
    if config is not None:
        try:
            config = find_recipe(config)
            values = with_arms(read_recipe(config), arms)
            runs = recipe.runs_of(config, values, study)
        except FileNotFoundError as error:
            failure = Finding("Recipe", "problem", str(error), "rest-trl recipes lists those there are")
        except (ValueError, OSError) as error:
            cure = "mend the file: a YAML mapping of arguments, such as rest-trl recipes demo prints"
            failure = Finding("Recipe", "problem", str(error), cure)
    pushes = any(run.get("push_to_hub") for run in runs)
    hub_error = machine.hub_error() if pushes or any(map(model_and_data.needs_hub, runs)) else None
    if hub_error is not None:
        learned["hub_error"] = hub_error
    yield from machine.hub_findings(pushes, hub_error)
    try:
        own = learned.get("accelerate_config")
        launch = own if accelerate_config is None else find_recipe(accelerate_config, "accelerate")
    except FileNotFoundError as error:
        yield Finding("Launcher", "problem", str(error), "choose one of these, or give a file")
    else:
        launcher = machine.launch_finding(launch, gpus)
        if launch is None and "accelerate_config_error" in learned:
            launcher = Finding(
                "Launcher", "problem", f"unknown: {learned['accelerate_config_error']}", "see accelerate"
            )
        yield launcher
        if launcher.status != "problem":
            learned["launch_config"] = machine.read_launch_config(launch)
    if failure is not None:
        yield failure
    elif config is not None:
        yield from recipe.recipe_findings(config, values, learned, gpus, arms, study)
    arguments = runs[0] if runs else {}  # arms of a study have one server
    server = server or recipe_server_url(arguments)
    if server is not None:
        yield from server_findings(server, arguments)


def main(args: list[str] | None = None) -> None:
    """
    Print the report.

    Args:
        args (`list[str]`, *optional*):
            The command line, by default the process's.

    Raises:
        SystemExit: with 1 if there is a problem, 0 otherwise.
    """
    arguments = make_parser().parse_args(args)
    options = arguments.config, arguments.server, arguments.accelerate_config, arguments.arm, arguments.study
    findings = list(examine(*options))
    problems = sum(finding.status == "problem" for finding in findings)
    if arguments.json:
        sys.stdout.write(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("", "status", "found", "what to do", title="rest-trl doctor")
        for finding in findings:
            status = Text(finding.status, style=_COLORS[finding.status])
            # `Text`, because rich would read brackets in a message as markup.
            table.add_row(Text(finding.name), status, Text(finding.found), Text(finding.cure))
        console = Console()
        console.print(table)
        warnings = sum(finding.status == "warning" for finding in findings)
        console.print(f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}")
    raise SystemExit(int(problems > 0))
