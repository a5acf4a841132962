"""Sampling settings, the interface of a backend, and a run's completions: read from the store, or generated."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from accelerate.logging import get_logger
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ...runs.files import encode
from .samples import Completion
from .store import CompletionStore


logger = get_logger(__name__)


@dataclass(frozen=True)
class GenerationSettings:
    """
    How completions are sampled, by every backend alike.

    Backends take from the checkpoint's `generation_config.json` only the tokens that end a completion. Its
    temperature, `top_k`, repetition penalty and the like are not used, so that all checkpoints are sampled alike.

    Args:
        max_new_tokens (`int`, *optional*, defaults to `2048`):
            The most tokens that a completion may have.
        temperature (`float`, *optional*, defaults to `0.0`):
            Sampling temperature. With 0 the likeliest token is taken at every position.
        top_p (`float`, *optional*, defaults to `1.0`):
            Tokens are sampled from the likeliest ones that together have this share of the probability. Unused at
            temperature 0.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the sampling, unused at temperature 0. A run that continues after an interruption may sample other
            completions than it would have sampled without the interruption. The backends of vLLM give each prompt a
            seed of its own, see [`prompt_seed`], and that of transformers each batch.

    Raises:
        ValueError: if a value is out of its range.
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
        Complete prompts.

        Args:
            prompts (`Mapping[str, str]`):
                Rendered prompts by id.

        Yields:
            [`Completion`]: in the order in which they finish. A prompt that fills the model's context gets no
            completion, and a warning is logged.
        """
        ...


def complete(
    prompts: Mapping[str, str],
    generator: Generator,
    store: CompletionStore,
    description: str = "Completions",
    leave: bool = True,
) -> dict[str, Completion]:
    """
    Complete prompts, without generating again what the store already has.

    Each new completion is stored as soon as it is there.

    Args:
        prompts (`Mapping[str, str]`):
            Rendered prompts by id.
        generator ([`Generator`]):
            Runs the model. It is not called if the store has everything.
        store ([`CompletionStore`]):
            Where completions are kept.
        description (`str`, *optional*, defaults to `"Completions"`):
            Label of the progress bar.
        leave (`bool`, *optional*, defaults to `True`):
            Whether the progress bar stays when it is full.

    Returns:
        `dict[str, Completion]`: by id, in the order of the prompts. Prompts that could not be completed are absent.

    Raises:
        ValueError: see [`CompletionStore.get`].
    """
    missing = {id: prompt for id, prompt in prompts.items() if store.get(id, prompt) is None}
    if missing:
        done = len(prompts) - len(missing)
        with tqdm(desc=description, total=len(prompts), initial=done, unit="prompt", leave=leave) as bar:
            for completion in generator.generate(missing):
                store.add(completion, missing[completion.id])
                bar.update()
    found = {id: store.get(id, prompt) for id, prompt in prompts.items()}
    return {id: completion for id, completion in found.items() if completion is not None}


def prompt_seed(seed: int, id: str) -> int:
    """
    The seed of one prompt, or of the batch that it is the first one of.

    With one seed for all, equal prompts would get equal completions, such as the trials of a task.

    Args:
        seed (`int`):
            Seed of the run.
        id (`str`):
            Id of the prompt.

    Returns:
        `int`: 32 bits, the same whenever the run goes on.
    """
    return zlib.crc32(encode(f"{seed}/{id}"))


def to_completion(
    id: str, completion_ids: list[int], truncated: bool, tokenizer: PreTrainedTokenizerBase, eos_token_ids: set[int]
) -> Completion:
    """
    Make a [`Completion`] from sampled token ids.

    Args:
        id (`str`):
            Id of the prompt.
        completion_ids (`list[int]`):
            Sampled ids, up to the end-of-sequence token if there is one.
        truncated (`bool`):
            Whether generation stopped because no more tokens were allowed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        eos_token_ids (`set[int]`):
            Tokens that end a completion.

    Returns:
        [`Completion`]
    """
    content = completion_ids[:-1] if completion_ids and completion_ids[-1] in eos_token_ids else completion_ids
    # In many syntaxes the markers of a call are special tokens, so these must stay in the text.
    text: Any = tokenizer.decode(content, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Completion(id, completion_ids, text, truncated)


def prompt_token_ids(
    prompts: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, room: int | None
) -> dict[str, list[int]]:
    """
    Tokenize rendered prompts, and leave out those that are too long for the model.

    Args:
        prompts (`Mapping[str, str]`):
            Rendered prompts by id. They already hold all special tokens, so the tokenizer adds none.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        room (`int`, *optional*):
            Most tokens that prompt and completion may have together. `None` means no limit.

    Returns:
        `dict[str, list[int]]`: by id, the longest first.
    """
    ids: dict[str, list[int]] = {
        id: tokenizer(prompt, add_special_tokens=False)["input_ids"] for id, prompt in prompts.items()
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
