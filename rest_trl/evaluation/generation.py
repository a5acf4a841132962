"""Completions of prompts, from whatever runs the model, into the store."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from accelerate.logging import get_logger
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .samples import Completion
from .store import CompletionStore


logger = get_logger(__name__)


@dataclass(frozen=True)
class GenerationSettings:
    """
    How completions are sampled: so by every backend, whatever the checkpoint's `generation_config.json` holds beside
    the tokens that end a completion.

    Args:
        max_new_tokens (`int`, *optional*, defaults to `2048`):
            Tokens per completion at most.
        temperature (`float`, *optional*, defaults to `0.0`):
            0 takes the likeliest token.
        top_p (`float`, *optional*, defaults to `1.0`):
            Nucleus, where tokens are sampled.
        seed (`int`, *optional*, defaults to `0`):
            Seed, where tokens are sampled. A run that was interrupted does not sample the same again.
    """

    max_new_tokens: int = 2048
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"max_new_tokens must be positive, temperature >= 0 and top_p in (0, 1]: {self}")


class Generator(Protocol):
    """Whatever runs a model."""

    def generate(self, prompts: Mapping[str, str]) -> Iterator[Completion]:
        """
        Complete prompts.

        Args:
            prompts (`Mapping[str, str]`):
                Rendered prompts by id.

        Yields:
            [`Completion`]: as they finish, in any order. A prompt that the model has no room for is logged and left
            out.
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
    Completions of prompts: those that the store has, the others generated and stored as they come.

    Args:
        prompts (`Mapping[str, str]`):
            Rendered prompts by id.
        generator ([`Generator`]):
            Runs the model; not called if there is nothing to do.
        store ([`CompletionStore`]):
            Where completions are kept.
        description (`str`, *optional*, defaults to `"Completions"`):
            Label of the progress bar.
        leave (`bool`, *optional*, defaults to `True`):
            Whether the progress bar stays when it is full.

    Returns:
        `dict[str, Completion]`: by id, in the order of the prompts, without those that could not be generated.

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


def to_completion(
    id: str, completion_ids: list[int], truncated: bool, tokenizer: PreTrainedTokenizerBase, eos_token_ids: set[int]
) -> Completion:
    """
    A completion of sampled ids.

    Args:
        id (`str`):
            Id of the prompt.
        completion_ids (`list[int]`):
            Sampled ids, up to the end-of-sequence token if there is one.
        truncated (`bool`):
            Whether it ended because no more tokens were allowed.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        eos_token_ids (`set[int]`):
            Tokens that end a completion.

    Returns:
        [`Completion`]
    """
    content = completion_ids[:-1] if completion_ids and completion_ids[-1] in eos_token_ids else completion_ids
    # Special tokens are kept, for in many syntaxes they are the markers of calls.
    text: Any = tokenizer.decode(content, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Completion(id, completion_ids, text, truncated)


def prompt_token_ids(
    prompts: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, room: int | None
) -> dict[str, list[int]]:
    """
    Token ids of rendered prompts, longest first, without those that leave the model no room for a token.

    Args:
        prompts (`Mapping[str, str]`):
            Rendered prompts by id, with all special tokens that the model wants.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        room (`int`, *optional*):
            Tokens that the model has for prompt and completion, if limited.

    Returns:
        `dict[str, list[int]]`
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
    # The longest first: what does not fit into memory shows at once, and batches waste little on padding.
    return {id: ids[id] for id in sorted(kept, key=lambda id: (-len(ids[id]), id))}
