"""Which tool-call syntax a model was trained on, read off its tokenizer."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .syntax import SYNTAXES


if TYPE_CHECKING:  # parsing needs neither torch nor transformers
    from transformers import PreTrainedTokenizerBase


def detect_syntax(tokenizer: "PreTrainedTokenizerBase") -> str:
    """
    Name of the tool-call syntax that the model of this tokenizer writes.

    The chat template decides; where it fits no syntax, the added tokens do. Each syntax is recognised by its
    [`evidence`](rest_trl.tool_calls.Evidence).

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.

    Returns:
        `str`: a name for [`~rest_trl.tool_calls.get_syntax`].

    Raises:
        ValueError: if neither the chat template nor the added tokens show exactly one syntax.
    """
    template = _template(tokenizer)
    evidence = [(name, evidence) for name, syntax in SYNTAXES.items() for evidence in syntax.evidence]
    names = _most_specific(
        (name, set(piece.template))
        for name, piece in evidence
        if piece.template
        and all(marker in template for marker in piece.template)
        and not any(marker in template for marker in piece.without)
    )
    if not names:
        added = set(tokenizer.get_added_vocab())
        names = _most_specific(
            (name, set(piece.tokens)) for name, piece in evidence if piece.tokens and added.issuperset(piece.tokens)
        )
    if len(names) == 1:
        return names[0]
    if names:
        cause = f"the chat template or the added tokens fit several tool-call syntaxes ({', '.join(names)})"
    elif template:
        cause = "neither the chat template nor the added tokens show a known tool-call syntax"
    else:
        cause = "the tokenizer has no chat template, and its added tokens show no known tool-call syntax"
    raise ValueError(
        f"{cause}: set tool_call_syntax to the one that the model writes, of {', '.join(sorted(SYNTAXES))}"
    )


def _most_specific(found: Iterable[tuple[str, set[str]]]) -> list[str]:
    """Names of the syntaxes that were found, except where another one was found by the same strings and more."""
    found = list(found)
    return sorted({name for name, strings in found if not any(strings < others for _, others in found)})


def _template(tokenizer: "PreTrainedTokenizerBase") -> str:
    template = tokenizer.chat_template or ""
    if isinstance(template, dict):  # several templates by name; the one for tools shows the calls
        template = template.get("tool_use") or "\n".join(template.values())
    return template.replace('\\"', '"')  # a template is source code, in which quotes may be escaped
