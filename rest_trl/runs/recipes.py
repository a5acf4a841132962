"""The recipes that come with the package and their arms, found by name, and `rest-trl recipes`, which lists them."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..spelling import HintingParser, did_you_mean


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


def recipes_dir() -> Path:
    """The folder of the recipes: that of an installed package or of a source tree."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / "recipes", package.parent / "recipes")
    for folder in folders:
        if (folder / "demo.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"there are no recipes in {folders[0]}: install rest-trl again, or give the path of a file"
    )


def find_recipe(name: str | Path, folder: str = "") -> Path:
    """
    Find a recipe by its path or its name.

    Args:
        name (`str` or `Path`):
            A file; or, where there is no such file, the name of a recipe that comes with the package, such as
            `demo`, `tiny/decides` or `recipes/demo.yaml`.
        folder (`str`, *optional*, defaults to `""`):
            Folder of the recipes in which the name is looked up.

    Returns:
        `Path`: The file.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a name.

    Example:

    ```python
    >>> find_recipe("demo").name
    'demo.yaml'

    ```
    """
    path = Path(name).expanduser()
    if path.exists() and not path.is_dir():  # a shell's <(...) is no regular file
        return path
    known = recipe_names(folder)
    short = str(name).removeprefix("recipes/").removesuffix(".yaml")
    short = short.removeprefix(f"{folder}/") if folder else short
    if short in known:
        return recipes_dir() / folder / f"{short}.yaml"
    hint = did_you_mean(short, known)
    listing = f"its names are {', '.join(known)}" if folder else "rest-trl recipes lists them"
    raise FileNotFoundError(f"there is no file {name}, and no recipe of this name: {hint}{listing}")


def recipe_names(folder: str = "") -> list[str]:
    """The names of the recipes that come with the package, configurations of accelerate and studies included."""
    root = recipes_dir() / folder
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def read_recipe(path: Path) -> dict[str, Any]:
    """What a recipe says; whatever is wrong with the file is a `ValueError` that names it."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): save it as such") from error
    except yaml.YAMLError as error:
        where, problem = "", str(error)
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            where = f", line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
            problem = error.problem or problem
            if "'\\t'" in problem:
                problem += ": indent with blanks instead of tabs"
        raise ValueError(f"{path}{where} is not YAML: {problem}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a YAML mapping of arguments to values")
    for key in content:
        if not isinstance(key, str):
            raise ValueError(f"{path} has the key {key!r}, which YAML does not read as a word: put it into quotes")
    return content


def take_option(arguments: list[str], option: str, value: str = "file") -> tuple[str | None, list[str]]:
    """Take `OPTION VALUE` or `OPTION=VALUE` out of a command line: the value, if there is one, and the rest."""
    arguments = [
        part for text in arguments for part in (text.split("=", 1) if text.startswith(option + "=") else [text])
    ]
    if option not in arguments:
        return None, arguments
    index = arguments.index(option)
    found = "".join(arguments[index + 1 : index + 2])
    if not found:
        raise ValueError(f"{option} needs a {value}")
    return found, arguments[:index] + arguments[index + 2 :]


def take_arms(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Take every `--arm NAME` out of a command line: the names, and the rest."""
    arms = []
    while (taken := take_option(arguments, "--arm", "name"))[0] is not None:
        arms.append(taken[0])
        arguments = taken[1]
    return arms, arguments


def load_arm(name: str) -> dict[str, Any]:
    """
    The settings of an arm of `recipes/arms.yaml`: a method, baseline or ablation that any recipe can be run with.

    Args:
        name (`str`):
            Name of the arm.

    Returns:
        `dict[str, Any]`: arguments by name.

    Raises:
        ValueError: if there is no such arm.

    Example:

    ```python
    >>> load_arm("rest")
    {'credit': 'completion', 'coefficients': 'entropy', 'reward_schedule': 'horizon'}

    ```
    """
    arms: dict[str, dict[str, Any]] = read_recipe(recipes_dir() / "arms.yaml")
    if name not in arms:
        raise ValueError(f"there is no arm {name}: {did_you_mean(name, arms)}rest-trl recipes lists them")
    return arms[name]


def with_arms(recipe: Mapping[str, Any], arms: Sequence[str]) -> dict[str, Any]:
    """
    A recipe with the settings of arms.

    Args:
        recipe (`Mapping[str, Any]`):
            Arguments by name.
        arms (`Sequence[str]`):
            Names of arms. Their settings replace the recipe's, and those of later arms replace those of earlier ones.

    Returns:
        `dict[str, Any]`: its `output_dir` is the recipe's with the names of the arms appended.

    Raises:
        ValueError: if there is no such arm.
    """
    settings = dict(recipe)
    for arm in arms:
        settings |= load_arm(arm)
    if arms and "output_dir" in recipe:
        settings["output_dir"] = "-".join([str(recipe["output_dir"]), *arms])
    return settings


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
        base = (path.parent / content["recipe"]).resolve()
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
