"""What a study is: its YAML file, and the folder that holds its runs."""

import json
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from ... import __version__
from ...runs.files import write_atomically, write_table
from ...runs.recipes import find_recipe, load_arm, read_recipe, recipe_of_study
from ...spelling import did_you_mean


Run = tuple[str, int]
"""An arm and a seed."""

_KEYS = ("recipe", "settings", "arms", "seeds", "baseline", "workers", "output_dir", "held_out", "evaluations")
_SET_BY_THE_STUDY = ("seed", "output_dir", "logging_steps", "logging_strategy")
_ARM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_MANIFEST = "study.json"
_PACKAGES = ("torch", "transformers", "trl")


@dataclass(frozen=True)
class Study:
    """
    Arms and seeds of one recipe.

    Args:
        arms (`dict[str, dict[str, Any]]`):
            The settings of each arm: the recipe with the arm's overrides.
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
            hint = did_you_mean(self.baseline, self.arms)
            raise ValueError(
                f"baseline: there is no arm {self.baseline!r}: {hint}choose one of {', '.join(self.arms)}"
            )
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
            file, or the name of one that comes with the package), `arms` (overrides of the recipe by the name of the
            arm; `arm: NAME` among them takes the settings of that arm of `recipes/arms.yaml`, which the others
            override), `baseline`, `seeds` (their number, or a list), `output_dir`, and optionally `settings`
            (overrides of the recipe in all arms), `workers`, `held_out` and `evaluations`, see [`Study`].
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
    content = read_recipe(path)
    is_table = "recipe" not in content and all(isinstance(study, dict) for study in content.values())
    if name is not None and not is_table:
        raise ValueError(f"{path} has no study {name!r}: it is one study, so leave out --study")
    if is_table:
        if name not in content:
            asked, hint = "holds several studies", ""
            if name is not None:
                asked, hint = f"has no study {name!r}", did_you_mean(name, content)
            raise ValueError(f"{path} {asked}: {hint}choose one of {', '.join(content)} with --study")
        content = content[name]
    unknown = {key: did_you_mean(key, _KEYS).strip() for key in content if key not in _KEYS}
    faults = [f"unknown key {key!r}{f' ({hint})' if hint else ''}" for key, hint in unknown.items()]
    faults += [f"no {key}" for key in ("recipe", "arms", "baseline", "output_dir") if key not in content]
    if faults:
        raise ValueError(f"{path} is not a study: {'; '.join(faults)}")
    for key in ("recipe", "baseline", "output_dir"):
        if not isinstance(content[key], str):
            raise ValueError(f"{path}: {key} must be a text, got {content[key]!r}")
    try:
        recipe = read_recipe(recipe_of_study(path, content["recipe"]))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: recipe: {error}") from error
    recipe |= _overrides(path, "settings", content.get("settings"))
    arms = content["arms"]
    if not isinstance(arms, dict) or not arms:
        raise ValueError(f"{path}: arms must map names to overrides of the recipe, for instance `grpo: {{}}`")
    for arm in arms:
        if not isinstance(arm, str) or not _ARM.fullmatch(arm):
            raise ValueError(f"{path}: the arm {arm!r} names a folder: use letters, digits and _.+-")
    numbers = seeds if seeds is not None else content.get("seeds", 1)
    if type(numbers) is not int and not isinstance(numbers, list):
        raise ValueError(f"{path}: seeds must be their number or a list of them, got {numbers!r}")
    return Study(
        arms={arm: recipe | _overrides(path, f"the arm {arm}", given) for arm, given in arms.items()},
        baseline=content["baseline"],
        seeds=tuple(range(numbers) if isinstance(numbers, int) else numbers),
        output_dir=Path(content["output_dir"]),
        workers=workers if workers is not None else content.get("workers"),
        **{key: content[key] for key in ("held_out", "evaluations") if key in content},
    )


def _overrides(path: Path, name: str, overrides: Any) -> dict[str, Any]:
    """The settings that an entry of a study makes, those of the arm that it names included."""
    if not isinstance(overrides or {}, dict):
        raise ValueError(f"{path}: {name} must be a mapping of arguments, not {overrides!r}")
    settings: dict[str, Any] = dict(overrides or {})
    if given := [key for key in _SET_BY_THE_STUDY if key in settings]:
        raise ValueError(f"{path}: {name} sets {', '.join(given)}, which the study sets for each run")
    named = load_arm(settings.pop("arm")) if "arm" in settings else {}
    return named | settings


class StudyFolder:
    """
    The folder of a study: `study.json` with the settings of every arm that was ever run in it, finished runs in
    `runs/ARM/seed_N.parquet`, and in `work/ARM/seed_N` the recipe, log and checkpoints of each run.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def result(self, run: Run) -> Path:
        """File of a finished run."""
        return self.directory / "runs" / run[0] / f"seed_{run[1]}.parquet"

    def work(self, run: Run) -> Path:
        """Folder in which a run works."""
        return self.directory / "work" / run[0] / f"seed_{run[1]}"

    def log(self, run: Run) -> Path:
        """File with all that a run has said."""
        return self.work(run) / "log.txt"

    def failure(self, run: Run) -> Path:
        """File with the one line that says why a run failed."""
        return self.work(run) / "failed.txt"

    def lock(self) -> AbstractContextManager[Any]:
        """
        Take the folder for this process, until the end of the context or of the process.

        Raises:
            ValueError: if another process has it.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            # Not the lock itself, which as a context is acquired once more than it is released.
            return FileLock(self.directory / ".lock").acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another study is at work in {self.directory}: wait for it, or end it") from error

    def manifest(self) -> dict[str, Any]:
        """What the runs in the folder were asked to do: `arms`, `held_out`, `evaluations` and `versions`."""
        path = self.directory / _MANIFEST
        if not path.exists():
            raise ValueError(f"{self.directory} holds no study: there is no {_MANIFEST}")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def check(self, study: Study, versions: dict[str, str] | None = None) -> None:
        """
        Compare a study with the one that the folder holds.

        Raises:
            ValueError: if there is none, or if its runs were made with other settings or with other `versions` of the
                packages, so that they are not comparable.
        """
        old, new = self.manifest(), _asked_for(study)
        if versions is not None:
            new["versions"] = versions
        changed = [f"{key} was {old[key]!r}, is {new[key]!r}" for key in new if key != "arms" and old[key] != new[key]]
        for arm in (arm for arm in old["arms"] if arm in new["arms"]):
            before, after = old["arms"][arm], new["arms"][arm]
            changed += [
                f"{key} of {arm} was {before.get(key)!r}, is {after.get(key)!r}"
                for key in sorted(before.keys() | after.keys())
                if before.get(key) != after.get(key)
            ]
        if changed:
            raise ValueError(
                f"{self.directory} holds another study ({'; '.join(changed)}): use another output_dir, or these "
                "settings; only seeds and arms can be added"
            )

    def register(self, study: Study) -> None:
        """Record a study in `study.json`. One that is there already is checked, and may get more arms and seeds."""
        versions = {"rest_trl": __version__, **{name: version(name) for name in _PACKAGES}}
        new = {**_asked_for(study), "versions": versions}
        if (self.directory / _MANIFEST).exists():
            self.check(study, versions)
            new["arms"] = {**self.manifest()["arms"], **new["arms"]}
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.directory / _MANIFEST, json.dumps(new, indent=2) + "\n")

    def save(self, run: Run, table: pd.DataFrame) -> None:
        """Write the table of a finished run, whole or not at all."""
        self.result(run).parent.mkdir(parents=True, exist_ok=True)
        write_table(table, self.result(run))
        self.failure(run).unlink(missing_ok=True)

    def results(self) -> pd.DataFrame:
        """All finished runs, arms in the order of the manifest: columns `arm`, `seed`, `step` and the metrics."""
        tables = []
        for arm in self.manifest()["arms"]:
            paths = self.result((arm, 0)).parent.glob("seed_*.parquet")
            tables += [pd.read_parquet(path) for path in sorted(paths, key=_seed)]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["arm", "seed", "step"])

    def failures(self) -> dict[Run, str]:
        """Why each run failed that has not succeeded since, in one line."""
        paths = sorted(self.directory.glob("work/*/seed_*/failed.txt"))
        return {(path.parts[-3], _seed(path.parent)): path.read_text(encoding="utf-8") for path in paths}


def _seed(path: Path) -> int:
    return int(path.stem.removeprefix("seed_"))


def _asked_for(study: Study) -> dict[str, Any]:
    """What the runs of a study depend on, in the form in which it comes back from JSON."""
    asked = {"arms": study.arms, "held_out": study.held_out, "evaluations": study.evaluations}
    return dict(json.loads(json.dumps(asked, default=str)))
