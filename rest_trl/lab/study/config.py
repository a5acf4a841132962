"""What a study is: its YAML file, and the settings of every arm."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...runs.recipes import find_recipe, load_arm


_KEYS = ("recipe", "arms", "seeds", "baseline", "workers", "output_dir", "held_out", "evaluations")
# Arguments that only the study itself sets, for each run.
_OWN = ("seed", "output_dir", "logging_steps", "logging_strategy")
_ARM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Study:
    """
    Arms and seeds of one recipe.

    Args:
        arms (`dict[str, dict[str, Any]]`):
            The recipe of each arm: the common one with the arm's overrides.
        baseline (`str`):
            The arm that the others are compared with.
        seeds (`tuple[int, ...]`):
            Seeds; every arm runs with each.
        output_dir (`Path`):
            Folder of the study. A later study in the same folder may add seeds and arms to it.
        workers (`int`, *optional*):
            Number of runs at once. By default one per GPU; without a GPU, or if all arms have `use_cpu`, one per core.
        held_out (`int`, *optional*, defaults to `512`):
            Held-out prompts on which the policy is measured.
        evaluations (`int`, *optional*, defaults to `2`):
            How often the policy is measured, evenly over the run; the last time at its end.

    Raises:
        ValueError: if the baseline is no arm, or seeds or numbers make no sense.
    """

    arms: dict[str, dict[str, Any]]
    baseline: str
    seeds: tuple[int, ...]
    output_dir: Path
    workers: int | None = None
    held_out: int = 512
    evaluations: int = 2

    def __post_init__(self) -> None:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline: there is no arm {self.baseline!r}: choose one of {', '.join(self.arms)}")
        if strange := [seed for seed in self.seeds if type(seed) is not int]:
            raise ValueError(f"seeds must be whole numbers, got {strange[0]!r}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds: give at least one, each once and none negative, not {list(self.seeds)}")
        for name in ("held_out", "evaluations", *(["workers"] if self.workers is not None else [])):
            value = vars(self)[name]
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a positive whole number, got {value!r}")


def load_study(path: Path, seeds: int | None = None, workers: int | None = None, *, name: str | None = None) -> Study:
    """
    Read a study from a YAML file.

    Args:
        path (`Path`):
            The file, or the name of one that comes with the package: `recipe` (path of a recipe, relative to this
            file), `arms` (overrides of the recipe by the name of the arm; `arm: NAME` among them takes the settings of
            that arm of `recipes/arms.yaml`, which the others override), `baseline`, `seeds` (their number, or a list),
            `output_dir`, and optionally `workers`, `held_out` and `evaluations`, see [`Study`].
        seeds (`int`, *optional*):
            Number of seeds, which replaces the file's.
        workers (`int`, *optional*):
            Number of runs at once, which replaces the file's.
        name (`str`, *optional*):
            Name of the study, where the file maps names to studies.

    Returns:
        [`Study`]

    Raises:
        FileNotFoundError: if there is no such file or recipe.
        ValueError: if the file does not describe a valid study, or holds several and none is named.
    """
    path = find_recipe(path)
    content = _mapping(path)
    is_table = "recipe" not in content and all(isinstance(study, dict) for study in content.values())
    if name is not None and not is_table:
        raise ValueError(f"{path} has no study {name!r}: it is one study, so leave out --study")
    if is_table:
        if name not in content:
            asked = "holds several studies" if name is None else f"has no study {name!r}"
            raise ValueError(f"{path} {asked}: choose one of {', '.join(content)} with --study")
        content = content[name]
    unknown = [key for key in content if key not in _KEYS]
    missing = [key for key in ("recipe", "arms", "baseline", "output_dir") if key not in content]
    if unknown or missing:
        raise ValueError(
            f"{path} is no study: "
            + "; ".join([f"unknown key {key!r}" for key in unknown] + [f"no {key}" for key in missing])
        )
    for key in ("recipe", "baseline", "output_dir"):
        if not isinstance(content[key], str):
            raise ValueError(f"{path}: {key} must be a text, got {content[key]!r}")
    recipe = _mapping(path.parent / content["recipe"])
    arms = content["arms"]
    if not isinstance(arms, dict) or not arms:
        raise ValueError(f"{path}: arms must map names to overrides of the recipe, for instance `grpo: {{}}`")
    for arm, overrides in arms.items():
        if not isinstance(arm, str) or not _ARM.fullmatch(arm):
            raise ValueError(f"{path}: the arm {arm!r} names a folder: use letters, digits and _.+-")
        if not isinstance(overrides or {}, dict):
            raise ValueError(f"{path}: the arm {arm} must be a mapping of arguments, not {overrides!r}")
        if given := [key for key in _OWN if key in (overrides or {})]:
            raise ValueError(f"{path}: the arm {arm} sets {', '.join(given)}, which the study gives to each run")
    given_seeds = seeds if seeds is not None else content.get("seeds", 1)
    if type(given_seeds) is not int and not isinstance(given_seeds, list):
        raise ValueError(f"{path}: seeds must be their number or a list of them, got {given_seeds!r}")
    return Study(
        arms={arm: {**recipe, **_settings(overrides or {})} for arm, overrides in arms.items()},
        baseline=content["baseline"],
        seeds=tuple(range(given_seeds) if isinstance(given_seeds, int) else given_seeds),
        output_dir=Path(content["output_dir"]),
        workers=workers if workers is not None else content.get("workers"),
        **{key: content[key] for key in ("held_out", "evaluations") if key in content},
    )


def _settings(overrides: dict[str, Any]) -> dict[str, Any]:
    named = load_arm(overrides["arm"]) if "arm" in overrides else {}
    return named | {key: value for key, value in overrides.items() if key != "arm"}


def _mapping(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no mapping of arguments")
    return content
