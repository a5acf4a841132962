"""Completions on disk: written as they come, read back when an interrupted run goes on."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from accelerate.logging import get_logger
from filelock import FileLock, Timeout

from ...runs.files import encode, write_atomically
from .samples import Completion


logger = get_logger(__name__)


class CompletionStore:
    """
    The completions of one run in `completions.jsonl`, under the settings in `run.json`.

    Each completion is one line, written as soon as it is there. If a process is killed while it writes, the torn last
    line is cut off and only that completion is generated again. One process at a time may use the folder.

    Args:
        directory (`Path`):
            Folder of the run, made if absent.
        settings (`Mapping[str, Any]`):
            JSON values of all that the completions depend on: model, benchmark, sampling and so on.

    Raises:
        ValueError: if the folder holds a run with other settings, if a line before the last is broken, or if another
            process uses the folder.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "completions.jsonl"
        self._completions: dict[str, Completion] = {}
        self._prompts: dict[str, str] = {}
        self._lock = FileLock(directory / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another process is at work in {directory}: wait for it, or end it") from error
        try:
            self._check_settings(directory / "run.json", settings)
            if self.path.exists():
                self._load()
            # The file is unbuffered, so that a completion is on disk, or an error is raised, before the next one.
            self._file = self.path.open("ab", buffering=0)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._lock.release()

    def __len__(self) -> int:
        return len(self._completions)

    def get(self, id: str, prompt: str) -> Completion | None:
        """
        The completion of a prompt, if it has been generated.

        Args:
            id (`str`):
                Id of the completion.
            prompt (`str`):
                The prompt.

        Returns:
            [`Completion`] or `None`

        Raises:
            ValueError: if the store has a completion of another prompt under that id.
        """
        if id not in self._completions:
            return None
        if self._prompts[id] != _digest(prompt):
            raise ValueError(
                f"{self.path} holds a completion of {id} for another prompt: data, chat template or renderer have "
                "changed since. Use another --output_dir"
            )
        return self._completions[id]

    def add(self, completion: Completion, prompt: str) -> None:
        """
        Store a completion.

        Args:
            completion ([`Completion`]):
                The completion.
            prompt (`str`):
                Its prompt. Only a digest of it is stored.

        Raises:
            ValueError: if the store has one with that id.
            OSError: if it cannot be written, for instance because the disk is full.
        """
        if completion.id in self._completions:
            raise ValueError(f"{completion.id} has been generated twice")
        row = {**asdict(completion), "prompt_sha256": _digest(prompt)}
        line = memoryview(encode(json.dumps(row, ensure_ascii=False) + "\n"))
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write {self.path}: {error.strerror}. The {len(self)} completions in it are kept: mend that "
                "and give the same command",
            ) from error
        self._completions[completion.id] = completion
        self._prompts[completion.id] = row["prompt_sha256"]

    def _check_settings(self, path: Path, settings: Mapping[str, Any]) -> None:
        if not path.exists():
            if self.path.exists():
                raise ValueError(f"{path} is gone, so what {self.path} holds is unknown: use another --output_dir")
            write_atomically(path, json.dumps(settings, indent=2) + "\n")
            return
        try:
            stored = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is broken ({error}): use another --output_dir") from error
        settings = json.loads(json.dumps(settings))  # as they look after writing and reading, e.g. tuples as lists
        differing = sorted(key for key in stored.keys() | settings.keys() if stored.get(key) != settings.get(key))
        if differing:
            listed = "; ".join(f"{key} was {stored.get(key)!r}, is {settings.get(key)!r}" for key in differing)
            raise ValueError(
                f"{path.parent} holds another run ({listed}): use another --output_dir, or these settings"
            )

    def _load(self) -> None:
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            logger.warning(
                f"{self.path} ends in the middle of a line, which is dropped: its completion is generated again"
            )
            os.truncate(self.path, end)
        for number, line in enumerate(content[:end].splitlines(), start=1):
            try:
                row = json.loads(line)
                if row["id"] in self._completions:
                    raise ValueError(f"a second one of {row['id']}")
                self._prompts[row["id"]] = row.pop("prompt_sha256")
                self._completions[row["id"]] = Completion(**row)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number}, is no completion ({error}): remove that line"
                ) from error


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
