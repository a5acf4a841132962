"""Completions on disk: written as they come, read back when an interrupted run goes on."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from accelerate.logging import get_logger

from .samples import Completion


logger = get_logger(__name__)


def write_atomically(path: Path, text: str) -> None:
    """
    Write a file so that at no time a part of it can be found under its name.

    Args:
        path (`Path`):
            The file.
        text (`str`):
            What to write.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class CompletionStore:
    """
    The completions of one run in `completions.jsonl`, under the settings in `run.json`.

    A completion is one line, written whole and flushed as soon as it is there. A line that a kill tore in two is cut
    off and its completion generated again; no other is.

    Args:
        directory (`Path`):
            Folder of the run, made if absent.
        settings (`Mapping[str, Any]`):
            What the completions depend on (model, benchmark, sampling, ...), JSON values.

    Raises:
        ValueError: if the folder holds a run with other settings, or a line that is broken in the middle.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "completions.jsonl"
        self._check_settings(directory / "run.json", dict(settings))
        self._completions: dict[str, Completion] = {}
        self._prompts: dict[str, str] = {}
        if self.path.exists():
            self._load()
        self._file = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._completions)

    def __iter__(self) -> Iterator[Completion]:
        return iter(self._completions.values())

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
            ValueError: if the completion that is stored under that id is one of another prompt.
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
        Take in a completion and write it down.

        Args:
            completion ([`Completion`]):
                The completion.
            prompt (`str`):
                Its prompt, of which a digest is kept.

        Raises:
            ValueError: if there is one of that id already.
        """
        if completion.id in self._completions:
            raise ValueError(f"{completion.id} has been generated twice")
        row = {**asdict(completion), "prompt_sha256": _digest(prompt)}
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()
        self._completions[completion.id] = completion
        self._prompts[completion.id] = row["prompt_sha256"]

    def _check_settings(self, path: Path, settings: dict[str, Any]) -> None:
        if not path.exists():
            write_atomically(path, json.dumps(settings, indent=2) + "\n")
            return
        stored = json.loads(path.read_text(encoding="utf-8"))
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
                self._prompts[row["id"]] = row.pop("prompt_sha256")
                self._completions[row["id"]] = Completion(**row)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number}, is no completion ({error}): remove that line"
                ) from error


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
