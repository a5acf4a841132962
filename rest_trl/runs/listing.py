"""What the recipes that come with the package say of themselves, and `rest-trl recipes`, which lists them."""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..spelling import HintingParser
from .recipes import find_recipe, recipe_names, recipe_of_study, recipes_dir


# How the comments at the head of a recipe name the machine that it is meant for.
_HARDWARE = re.compile(
    r"one card of \d+ GB|two nodes of \d+ GPUs|one node of \d+ GPUs|\d+ GPUs of one node", re.IGNORECASE
)
_CARD = re.compile(r"one card of (\d+) GB")
_COMMAND = re.compile(r"([A-Z_]+=\S+ )*(accelerate launch|vllm serve|rest-trl) ")
_ACCELERATE = re.compile(r"recipes/(accelerate/\w+\.yaml)")
# Files that hold no recipe but many entries, and the option that chooses one.
TABLES = {"arms": "--arm", "studies": "--study"}


@dataclass(frozen=True)
class Recipe:
    """What the head of a recipe says."""

    name: str  # that `--config` takes
    hardware: str  # the machine that it is meant for
    purpose: str  # what it trains
    commands: tuple[str, ...]  # its launch commands, as they can be run from any directory
    model: str  # that it trains

    def fits(self, model: str, memory: float | None) -> bool:
        """Whether its model's name has these words, and it runs on one card of that memory, in GB, or on less."""
        if memory is not None and self.hardware not in ("any", "CPU"):
            card = _CARD.search(self.hardware)
            if card is None or float(card[1]) > memory:
                return False
        return model.lower() in f"{self.model} {self.name}".lower()


def read_table(name: str) -> dict[str, str]:
    """
    What the comments above the entries of a table say.

    Args:
        name (`str`):
            `"arms"` or `"studies"`.

    Returns:
        `dict[str, str]`: comments by the name of the entry.
    """
    purposes: dict[str, str] = {}
    comment: list[str] = []
    for line in (recipes_dir() / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
            continue
        if entry := re.match(r"\w+(?=:)", line):
            purposes[entry[0]] = " ".join(comment)
        comment = []
    return purposes


def read_head(path: Path, name: str) -> Recipe:
    """Read what the comments at the head of a recipe say."""
    text = path.read_text(encoding="utf-8")
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    commands = [line for line in head if _COMMAND.match(line)]
    words = [line for line in head if line not in commands]
    start = next((index for index, line in enumerate(words) if line), 0)
    content: dict[str, Any] = yaml.safe_load(text) or {}
    if "arms" in content:  # a study needs the machine of its recipe
        base = recipe_of_study(path, content["recipe"])
        hardware = read_head(base, base.stem).hardware
    else:
        found = _HARDWARE.search(" ".join(words))
        hardware = found[0][0].lower() + found[0][1:] if found else "CPU" if content.get("use_cpu") else "any"
    model = str(content.get("model_name_or_path", ""))
    return Recipe(name, hardware, " ".join(_sentence(words[start:])), tuple(map(_runnable, commands)), model)


def _sentence(lines: list[str]) -> list[str]:
    """The first sentence, which may go on over several lines."""
    sentence: list[str] = []
    for line in lines:
        end = re.search(r"(?<!Dr)\.(?= |$)", line)
        sentence.append(line[: end.start() + 1] if end else line)
        if end or not line:
            break
    return sentence


def _runnable(command: str) -> str:
    """The command as it runs from any directory: recipes by their names, accelerate's configurations by full paths."""
    command = _ACCELERATE.sub(lambda match: str(recipes_dir() / match[1]), command)
    return re.sub(r"(--config) recipes/(\S+)\.yaml", r"\1 \2", command)


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = HintingParser(
        "rest-trl recipes",
        description="List the recipes that come with the package: the name that --config takes, the machine, what is "
        "trained, and the commands that launch it; then the arms that --arm takes, and the studies.",
    )
    parser.add_argument("name", nargs="?", help="print this recipe instead, to be kept in a file and changed")
    parser.add_argument("--model", metavar="NAME", help="only recipes for models of this name, or a part of one: 1.7b")
    parser.add_argument("--memory", type=float, metavar="GB", help="only recipes that one card of this memory can run")
    return parser


def main(args: list[str] | None = None) -> None:
    """
    List the recipes, or print one.

    Args:
        args (`list[str]`, *optional*):
            The command line, by default the process's.

    Raises:
        SystemExit: with one line, if there is no such recipe.
    """
    arguments = make_parser().parse_args(args)
    try:
        if arguments.name is not None:
            sys.stdout.write(find_recipe(arguments.name).read_text(encoding="utf-8"))
            return
        folder = recipes_dir()
    except FileNotFoundError as error:
        raise SystemExit(f"rest-trl recipes: error: {error}") from error
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    names = [name for name in recipe_names() if not name.startswith("accelerate/") and name not in TABLES]
    recipes = [read_head(folder / f"{name}.yaml", name) for name in names]
    recipes = [recipe for recipe in recipes if recipe.fits(arguments.model or "", arguments.memory)]
    if not recipes:
        raise SystemExit(
            "rest-trl recipes: error: there is none for this model and memory: rest-trl recipes lists all"
        )
    for recipe in recipes:
        console.print(
            Text.assemble((recipe.name, "bold cyan"), "  ", (recipe.hardware, "green"), f"  {recipe.purpose}")
        )
        for command in recipe.commands:
            console.print(Text(f"    {command}", style="dim"))
    is_filtered = arguments.model is not None or arguments.memory is not None
    for table, option in TABLES.items() if not is_filtered else ():
        for entry, purpose in read_table(table).items():
            console.print(Text.assemble((f"{option} {entry}", "bold cyan"), f"  {purpose}"))


if __name__ == "__main__":
    main()
