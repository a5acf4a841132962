"""The tokens that end a gold completion."""

from collections.abc import Collection, Mapping
from typing import Any

from jinja2 import TemplateError
from transformers import GenerationConfig, PreTrainedTokenizerBase


_PROBE = "rest-trl-probe"


def stop_ids(model: Any, revision: str = "main") -> set[int]:
    """
    The tokens at which a model's generation stops, as its generation config has them.

    Args:
        model:
            A causal language model, or the path or id of one.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit on the Hub.

    Returns:
        `set[int]`: empty, if a checkpoint has no generation config.
    """
    if isinstance(model, str):
        try:
            config: Any = GenerationConfig.from_pretrained(model, revision=revision)
        except OSError:  # not every checkpoint has the file
            return set()
    else:
        config = model.generation_config
    found = config.eos_token_id
    return set() if found is None else set(found) if isinstance(found, list) else {found}


def end_of_turn(
    tokenizer: PreTrainedTokenizerBase,
    stops: Collection[int],
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """
    How a policy should end its turn: with what the chat template writes there, up to the first token at which
    generation stops.

    That need not be the tokenizer's end-of-sequence token: Gemma 3 ends a turn with `<end_of_turn>`. Where generation
    would not stop at what the template writes, as with many base models, or the template writes nothing there, it is
    the end-of-sequence token.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        stops (`Collection[int]`):
            Tokens at which the model's generation stops, see [`stop_ids`], beside the end-of-sequence token.
        chat_template_kwargs (`Mapping[str, Any]`, *optional*):
            Further arguments of the chat template.

    Returns:
        `list[int]`: at least one token id.
    """
    end: Any = tokenizer.eos_token_id
    ids: list[int] = tokenizer(_behind_a_turn(tokenizer, chat_template_kwargs or {}), add_special_tokens=False)[
        "input_ids"
    ]
    stop = next((place for place, token in enumerate(ids) if token in {*stops, end}), None)
    return [end] if stop is None else ids[: stop + 1]


def _behind_a_turn(tokenizer: PreTrainedTokenizerBase, chat_template_kwargs: Mapping[str, Any]) -> str:
    """What the chat template writes after the text of an assistant's turn; nothing without a template."""
    if tokenizer.chat_template is None and "chat_template" not in chat_template_kwargs:
        return ""
    messages: Any = [{"role": "user", "content": "."}, {"role": "assistant", "content": _PROBE}]
    try:
        rendered = str(tokenizer.apply_chat_template(messages, tokenize=False, **chat_template_kwargs))
    except (TemplateError, TypeError, LookupError):  # a template that refuses such messages may be given text alone
        return ""
    return rendered.rpartition(_PROBE)[2] if _PROBE in rendered else ""
