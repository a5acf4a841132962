"""Completions of a run: how they are sampled, what runs the model, and the store that keeps them on disk."""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from filelock import FileLock, Timeout

from ...runs.files import encode, write_atomically


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # takes seconds to import

Tokenizer: TypeAlias = "PreTrainedTokenizerBase"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Completion:
    """
    What a model wrote for a prompt.

    Args:
        id (`str`):
            Id of the [`Sample`]. For a step of a dialogue, turn and step follow it: `multi_turn_base_0/2.1`.
        completion_ids (`list[int]`):
            Sampled token ids, the end-of-sequence token included where there was one.
        text (`str`):
            Their text, special tokens included, end-of-sequence token excluded.
        truncated (`bool`):
            Whether generation stopped because no more tokens were allowed.
    """

    id: str
    completion_ids: list[int]
    text: str
    truncated: bool


@dataclass(frozen=True)
class GenerationSettings:
    """
    How completions are sampled, by every backend alike.

    Backends take from the checkpoint's `generation_config.json` only the tokens that end a completion. Its
    temperature, `top_k`, repetition penalty and the like are not used, so that all checkpoints are sampled alike. With
    temperature 0 the likeliest token is taken at every position. The backends of vLLM give each prompt a seed, see
    [`prompt_seed`], and that of transformers each batch; a run that continues after an interruption may sample other
    completions than it would have sampled without the interruption.
    """

    max_new_tokens: int = 2048
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"max_new_tokens must be positive, temperature >= 0 and top_p in (0, 1]: {self}")


class Generator(Protocol):
    """A backend: something that completes prompts with a model."""

    def generate(self, prompts: Mapping[str, str]) -> Iterator[Completion]:
        """
        Complete rendered prompts, given by id, in the order in which they finish.

        A prompt that fills the model's context gets no completion, and a warning is logged.
        """
        ...


class CompletionStore:
    """
    The completions of one run in `completions.jsonl`, under the settings in `run.json`.

    Each completion is one line, written as soon as it is there. If a process is killed while it writes, the torn last
    line is cut off and only that completion is generated again. One process at a time may use the folder. `settings`
    are JSON values of all that the completions depend on: a run with other ones is refused.
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
        """The completion of that id, or `None`; a `ValueError` if it is one of another prompt."""
        if id not in self._completions:
            return None
        if self._prompts[id] != _digest(prompt):
            raise ValueError(
                f"{self.path} holds a completion of {id} for another prompt: data, chat template or renderer have "
                "changed since. Use another --output_dir"
            )
        return self._completions[id]

    def add(self, completion: Completion, prompt: str) -> None:
        """Write a completion, with a digest of its prompt; an `OSError` if, for instance, the disk is full."""
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


def complete(
    prompts: Mapping[str, str],
    generator: Generator,
    store: CompletionStore,
    description: str = "Completions",
    leave: bool = True,
) -> dict[str, Completion]:
    """
    Complete prompts, given by id, without generating again what the store has, and store each completion at once.

    Returns the completions in the order of the prompts. Prompts that could not be completed are absent.
    """
    missing = {id: prompt for id, prompt in prompts.items() if store.get(id, prompt) is None}
    if missing:
        from tqdm.auto import tqdm

        done = len(prompts) - len(missing)
        with tqdm(desc=description, total=len(prompts), initial=done, unit="prompt", leave=leave) as bar:
            for completion in generator.generate(missing):
                store.add(completion, missing[completion.id])
                bar.update()
    found = {id: store.get(id, prompt) for id, prompt in prompts.items()}
    return {id: completion for id, completion in found.items() if completion is not None}


def prompt_seed(seed: int, id: str) -> int:
    """
    The seed (32 bits) of one prompt, or of the batch that it is the first one of, the same whenever a run continues.

    With one seed for all, equal prompts would get equal completions, such as the trials of a task.
    """
    return zlib.crc32(encode(f"{seed}/{id}"))


def to_completion(
    id: str, completion_ids: list[int], truncated: bool, tokenizer: Tokenizer, eos_token_ids: set[int]
) -> Completion:
    """Make a [`Completion`] from sampled ids, which end with one of `eos_token_ids` if the model ended it."""
    content = completion_ids[:-1] if completion_ids and completion_ids[-1] in eos_token_ids else completion_ids
    # In many syntaxes the markers of a call are special tokens, so these must stay in the text.
    text: Any = tokenizer.decode(content, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Completion(id, completion_ids, text, truncated)


def prompt_token_ids(prompts: Mapping[str, str], tokenizer: Tokenizer, room: int | None) -> dict[str, list[int]]:
    """
    Tokenize rendered prompts, the longest first, and leave out those that fill the `room` tokens of the model.

    The prompts already hold all special tokens, so the tokenizer adds none. Half a surrogate pair, which models can
    write as a JSON escape and tools repeat, is escaped again, because tokenizers cannot take it.
    """
    ids: dict[str, list[int]] = {
        id: tokenizer(encode(prompt).decode(), add_special_tokens=False)["input_ids"] for id, prompt in prompts.items()
    }
    too_long = [id for id, prompt_ids in ids.items() if room is not None and len(prompt_ids) >= room]
    if too_long:
        logger.warning(
            f"{len(too_long)} prompts have no room for a completion in the {room} tokens of the model and are left "
            f"out, to be counted as wrong: {', '.join(too_long[:5])}{', ...' if len(too_long) > 5 else ''}"
        )
    kept = ids.keys() - set(too_long)
    # With the longest first, a lack of memory shows at once, and the prompts of a batch need little padding.
    return {id: ids[id] for id in sorted(kept, key=lambda id: (-len(ids[id]), id))}
