"""Tells which program a recipe is for, whether that program's parser takes it, and which runs it describes."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ...runs.recipes import read_head
from .finding import Finding, brief


Kind = Literal["train", "sft", "study"]
# Arguments of `rest-trl sft` alone. By them its recipes are known where no comment names their command.
SFT_ARGUMENTS = {
    "assistant_only_loss",
    "completion_only_loss",
    "format_weight",
    "max_length",
    "packing",
    "parameters_weight",
    "reasoning_weight",
    "response_weight",
    "tool_name_weight",
}
_PROGRAM = re.compile(r"rest[-_]trl(?:\.lab)?[ .](train|sft|study)\b")


def kind_of(path: Path, recipe: dict[str, Any]) -> Kind:
    """
    Tell which program a recipe is for.

    Args:
        path (`Path`):
            The recipe. The last launch command in its head decides, because servers are started before.
        recipe (`dict[str, Any]`):
            Its arguments, which decide where the head names no command.

    Returns:
        `str`: `"train"`, `"sft"` or `"study"`.
    """
    if "arms" in recipe:
        return "study"
    named: list[Any] = _PROGRAM.findall(" ".join(read_head(path, path.stem).commands))
    if named:
        kind: Kind = named[-1]
        return kind
    return "sft" if SFT_ARGUMENTS & recipe.keys() else "train"


def runs_of(path: Path, recipe: dict[str, Any], study: str | None = None) -> list[dict[str, Any]]:
    """
    List the arguments of the runs that a recipe describes.

    Args:
        path (`Path`):
            The recipe.
        recipe (`dict[str, Any]`):
            Its arguments.
        study (`str`, *optional*):
            Name of the study, where the file holds several.

    Returns:
        `list[dict[str, Any]]`: the recipe's own; those of each arm of a study, and none if the study cannot be read,
        of which [`parse_finding`] tells the cause.
    """
    if kind_of(path, recipe) != "study":
        return [recipe]
    try:
        loaded = _load_study(path, study)
    except Exception:  # see the docstring
        return []
    return [{**arm, "output_dir": str(loaded.output_dir)} for arm in loaded.arms.values()]


def parse_finding(path: Path, kind: Kind, on_cpu: bool, arms: Sequence[str] = (), study: str | None = None) -> Finding:
    """
    Say whether a recipe's program takes it.

    Args:
        path (`Path`):
            The recipe.
        kind (`str`):
            Which program it is for.
        on_cpu (`bool`):
            Whether there is no GPU. Then the recipe is parsed as one for a CPU, because a finding of its own says that
            there is none.
        arms (`Sequence[str]`, *optional*):
            Names of the arms that the recipe is run with.
        study (`str`, *optional*):
            Name of the study, where the file holds several.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            _parse(path, kind, on_cpu, arms, study)
    except SystemExit:  # argparse writes the cause to stderr
        cause = said.getvalue().strip().split("error: ")[-1]
        program = "sft" if kind == "sft" else "train"
        return Finding("Recipe", "problem", brief(cause), f"correct the argument; rest-trl {program} --help lists all")
    except Exception as error:  # the recipe or a broken stack may raise anything
        return Finding("Recipe", "problem", brief(error, 400), "correct what the message names")
    return Finding("Recipe", "ok", f"{path} parses" + ("" if kind == "train" else f" for rest-trl {kind}"))


def _parse(path: Path, kind: Kind, on_cpu: bool, arms: Sequence[str], name: str | None) -> None:
    if kind == "study":
        study, device = _load_study(path, name), {"use_cpu": True} if on_cpu else {}
        study = dataclasses.replace(study, arms={name: {**arm, **device} for name, arm in study.arms.items()})
        from ..study.worker import check_arms

        check_arms(study)
        return
    if kind == "sft":
        from ..sft import make_parser
    else:
        from ...train import make_parser
    arguments = ["--config", str(path), *(["--use_cpu", "true"] if on_cpu else [])]
    arguments += [f"--arm={arm}" for arm in arms]
    make_parser("recipe").parse_args_and_config(arguments, fail_with_unknown_args=True)


def _load_study(path: Path, name: str | None) -> Any:
    from ..study.arms import load_study

    return load_study(path, name=name)
