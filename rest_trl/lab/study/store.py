"""The folder of a study: what was asked for, and one file per finished run."""

import json
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from ... import __version__
from ...runs.files import write_atomically, write_table
from .config import Study


Run = tuple[str, int]
"""An arm and a seed."""

_MANIFEST = "study.json"
_PACKAGES = ("torch", "transformers", "trl")


class StudyStore:
    """
    The folder of a study.

    `study.json` holds the settings of every arm that was ever run in it, `runs/ARM/seed_N.parquet` the finished runs,
    `work/ARM/seed_N` what a run leaves behind: its recipe, its log, its checkpoints.

    Args:
        directory (`Path`):
            The folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def result(self, run: Run) -> Path:
        """File of a finished run."""
        return self.directory / "runs" / run[0] / f"seed_{run[1]}.parquet"

    def work(self, run: Run) -> Path:
        """Folder in which a run works."""
        return self.directory / "work" / run[0] / f"seed_{run[1]}"

    def failure(self, run: Run) -> Path:
        """File with the one line that says why a run failed."""
        return self.work(run) / "failed.txt"

    def lock(self) -> AbstractContextManager[Any]:
        """
        Take the folder for this process.

        Returns:
            `AbstractContextManager`: the folder is taken already, and free at the end of the context, or once this
            object or the process is gone.

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
        """
        What the runs in the folder were asked to do.

        Returns:
            `dict[str, Any]`: `arms` with their settings, `held_out`, `evaluations` and `versions`.

        Raises:
            ValueError: if the folder holds no study.
        """
        path = self.directory / _MANIFEST
        if not path.exists():
            raise ValueError(f"{self.directory} holds no study: there is no {_MANIFEST}")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def check(self, study: Study, versions: dict[str, str] | None = None) -> None:
        """
        Compare a study with the one that the folder holds.

        Args:
            study ([`Study`]):
                The study.
            versions (`dict[str, str]`, *optional*):
                Versions of the packages that new runs would be made with.

        Raises:
            ValueError: if the folder holds no study, or if its runs were made with other settings or versions, so that
                they are not comparable with those of the study.
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
        """
        Record a study in the folder: the first one creates `study.json`, a later one may add arms and seeds.

        Args:
            study ([`Study`]):
                The study.

        Raises:
            ValueError: if runs of the folder would not be comparable with those of the study.
        """
        versions = {"rest_trl": __version__, **{name: version(name) for name in _PACKAGES}}
        new = {**_asked_for(study), "versions": versions}
        if (self.directory / _MANIFEST).exists():
            self.check(study, versions)
            new["arms"] = {**self.manifest()["arms"], **new["arms"]}
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self.directory / _MANIFEST, json.dumps(new, indent=2) + "\n")

    def save(self, run: Run, table: pd.DataFrame) -> None:
        """
        Write the table of a finished run, all of it or nothing.

        Args:
            run (`Run`):
                Arm and seed.
            table (`pd.DataFrame`):
                One row per step.
        """
        self.result(run).parent.mkdir(parents=True, exist_ok=True)
        write_table(table, self.result(run))
        self.failure(run).unlink(missing_ok=True)

    def results(self) -> pd.DataFrame:
        """
        All finished runs, arms in the order of the manifest.

        Returns:
            `pd.DataFrame`: columns `arm`, `seed`, `step` and the metrics; without rows if no run is finished.
        """
        tables = []
        for arm in self.manifest()["arms"]:
            paths = self.result((arm, 0)).parent.glob("seed_*.parquet")
            tables += [
                pd.read_parquet(path) for path in sorted(paths, key=lambda path: int(path.stem.removeprefix("seed_")))
            ]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["arm", "seed", "step"])

    def failures(self) -> dict[Run, str]:
        """
        Runs that failed and have not been repeated with success.

        Returns:
            `dict[Run, str]`: one line each.
        """
        return {
            (path.parent.parent.name, int(path.parent.name.removeprefix("seed_"))): path.read_text(encoding="utf-8")
            for path in sorted(self.directory.glob("work/*/seed_*/failed.txt"))
        }


def _asked_for(study: Study) -> dict[str, Any]:
    """What the runs of a study depend on, in the form in which it comes back from JSON."""
    asked = {"arms": study.arms, "held_out": study.held_out, "evaluations": study.evaluations}
    return dict(json.loads(json.dumps(asked, default=str)))
