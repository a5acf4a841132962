"""The recipes that come with the package and their arms, found by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..spelling import did_you_mean


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


def recipe_of_study(study: Path, recipe: str) -> Path:
    """The recipe that a study's file names: a path relative to that file, or the name of one in the package."""
    beside = study.parent / recipe
    return beside if beside.is_file() else find_recipe(recipe)


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
    >>> load_arm("arguments")
    {'model_name_or_path': 'tiny/arguments', 'dataset_name': 'tiny/arguments', 'max_completion_length': 96}

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
