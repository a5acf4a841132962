"""Which tool-call syntax a model was trained on, read off its tokenizer."""

from typing import TYPE_CHECKING, NamedTuple


if TYPE_CHECKING:  # parsing needs neither torch nor transformers
    from transformers import PreTrainedTokenizerBase


class _Evidence(NamedTuple):
    """
    What gives a syntax away.

    `template` are strings that must all occur in the chat template, `without` strings that must not. Where the
    template shows no calls, the added `tokens` decide; only tokens that no other syntax has are listed.
    """

    template: tuple[str, ...]
    without: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()


_DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>")
_GRANITE = "<|start_of_role|>"

# Read off the templates that TRL 1.16 ships, and vLLM's and llama.cpp's copies of others. For `granite4` and `rlla` no
# template was at hand: theirs follows from the syntax.
_EVIDENCE: dict[str, tuple[_Evidence, ...]] = {
    "deepseek_v3": (_Evidence((*_DEEPSEEK, "```json")),),
    "deepseek_v31": (_Evidence(_DEEPSEEK, without=("```json",)),),
    "functiongemma": (_Evidence(("<start_function_call>",), tokens=("<start_function_call>",)),),
    "gemma4": (_Evidence(("<|tool_call>call:",), tokens=("<|tool_call>",)),),
    "glm45": (_Evidence(("<tool_call>", "<arg_key>", "<arg_value>"), tokens=("<arg_key>", "<arg_value>")),),
    "granite": (_Evidence((_GRANITE, "<|tool_call|>")),),
    "granite4": (_Evidence((_GRANITE, "<tool_call>", "</tool_call>"), without=("<|tool_call|>",)),),
    "hermes": (_Evidence(("<tool_call>", '"arguments"'), without=("<function=", "<arg_key>", _GRANITE)),),
    "kimi_k2": (_Evidence(("<|tool_call_begin|>",), tokens=("<|tool_call_argument_begin|>",)),),
    "lfm2": (
        _Evidence(("<|tool_call_start|>",), tokens=("<|tool_call_start|>",)),
        _Evidence(("<|tool_list_start|>",)),
    ),
    "llama3_json": (
        _Evidence(("<|start_header_id|>", '"parameters": dictionary of argument name'), tokens=("<|python_tag|>",)),
        _Evidence(("<|header_start|>", '"parameters": dictionary of argument name')),
    ),
    "mistral": (_Evidence(("[TOOL_CALLS]",), tokens=("[TOOL_CALLS]",)),),
    "openai": (_Evidence(("<|channel|>", "commentary", "functions."), tokens=("<|channel|>", "<|constrain|>")),),
    "phi4_mini_json": (
        _Evidence(("functools[",)),
        _Evidence(("<|tool|>", "<|/tool|>"), without=("<|tool_call|>",), tokens=("<|tool|>", "<|/tool|>")),
    ),
    "pythonic": (_Evidence(("[func_name1(", "func_name2(")),),
    "qwen3_coder": (_Evidence(("<tool_call>", "<function=", "<parameter=")),),
    "rlla": (_Evidence(("<tool_call>", "<response>", '"parameters"'), without=('"arguments"',)),),
}


def detect_syntax(tokenizer: "PreTrainedTokenizerBase") -> str:
    """
    Name of the tool-call syntax that the model of this tokenizer writes.

    The chat template decides; where it shows no calls, the added tokens do.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.

    Returns:
        `str`: a name for [`~rest_trl.tool_calls.get_syntax`].

    Raises:
        ValueError: if neither the chat template nor the added tokens show exactly one syntax.
    """
    template = _template(tokenizer)
    names = [
        name
        for name, alternatives in _EVIDENCE.items()
        if any(
            all(marker in template for marker in evidence.template)
            and not any(marker in template for marker in evidence.without)
            for evidence in alternatives
        )
    ]
    if not names:
        added = set(tokenizer.get_added_vocab())
        names = [
            name
            for name, alternatives in _EVIDENCE.items()
            if any(evidence.tokens and added.issuperset(evidence.tokens) for evidence in alternatives)
        ]
    if len(names) == 1:
        return names[0]
    if names:
        cause = f"the chat template or the added tokens fit several tool-call syntaxes ({', '.join(names)})"
    elif template:
        cause = "neither the chat template nor the added tokens show a known tool-call syntax"
    else:
        cause = "the tokenizer has no chat template, and its added tokens show no known tool-call syntax"
    raise ValueError(f"{cause}: set tool_call_syntax to the one that the model writes, of {', '.join(_EVIDENCE)}")


def _template(tokenizer: "PreTrainedTokenizerBase") -> str:
    template = tokenizer.chat_template or ""
    if isinstance(template, dict):  # several templates by name; the one for tools shows the calls
        template = template.get("tool_use") or "\n".join(template.values())
    return template.replace('\\"', '"')  # it is source code
