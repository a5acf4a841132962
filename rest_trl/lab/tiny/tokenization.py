"""The tiny model's tokenizer: byte-level BPE with Qwen3's pretokenisation and markers, and a compact chat template."""

import re
from collections.abc import Iterable
from typing import cast

from tokenizers import AddedToken, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from .world import Step


MAX_LENGTH = 32768
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# As in Qwen3, each marker has one id but is no special token, so it survives `skip_special_tokens=True`.
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

# The layout of Qwen3's template, but each tool is one line with its signature instead of its JSON schema, which keeps
# prompts short.
CHAT_TEMPLATE = """\
{%- macro signature(function) -%}
    {{- function.name }}(
    {%- for name, schema in ((function.parameters or {}).properties or {}).items() -%}
        {{- name }}: {{ schema.format or schema.type }}{{ '' if loop.last else ', ' }}
    {%- endfor -%}
    )
{%- endmacro -%}
{%- set has_system = messages[0].role == 'system' -%}
{%- set system = messages[0].content if has_system else '' -%}
{%- if tools or system -%}
    {{- '<|im_start|>system\\n' + system + ('\\n' if tools and system else '') }}
    {%- for tool in tools or [] -%}
        {{- signature(tool.function or tool) }}{{ '' if loop.last else '\\n' }}
    {%- endfor -%}
    {{- '<|im_end|>\\n' }}
{%- endif -%}
{%- for message in (messages[1:] if has_system else messages) -%}
    {%- if message.role == 'tool' -%}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
    {%- else -%}
        {%- set parts = namespace(all=[]) -%}
        {%- if message.reasoning_content -%}
            {%- set parts.all = ['<think>\\n' + message.reasoning_content + '\\n</think>'] -%}
        {%- endif -%}
        {%- if message.content -%}
            {%- set parts.all = parts.all + [message.content] -%}
        {%- endif -%}
        {%- for tool_call in message.tool_calls or [] -%}
            {%- set call = tool_call.function or tool_call -%}
            {%- set arguments = call.arguments if call.arguments is string else call.arguments | tojson -%}
            {%- set block = '{"name": "' + call.name + '", "arguments": ' + arguments + '}' -%}
            {%- set parts.all = parts.all + ['<tool_call>\\n' + block + '\\n</tool_call>'] -%}
        {%- endfor -%}
        {{- '<|im_start|>' + message.role + '\\n' + parts.all | join('\\n') }}
    {%- endif -%}
    {{- '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' }}
{%- endif -%}
"""

# How transformers parses a completion into a message, as TRL's loop of tool calls requires.
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>\n", "close_pattern": r"\n</think>\s*", "content": "text"},
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}


def build_tokenizer(texts: Iterable[str], vocab_size: int = 1200) -> PreTrainedTokenizerFast:
    """
    Train the tokenizer on texts, from which special tokens and markers are cut out.

    Every byte has a token, `<|im_end|>` ends a turn, `<|endoftext|>` pads. `vocab_size` is an upper bound, special
    tokens and markers included: few different words give fewer merges.
    """
    added = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    added += [AddedToken(token, special=False, normalized=False) for token in MARKERS]
    cut = re.compile("|".join(re.escape(token.content) for token in added))
    # An untrained Qwen2Tokenizer has Qwen's normalizer, pretokenisation rule and decoder.
    backend = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(added),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator((piece for text in texts for piece in cut.split(text)), trainer=trainer)
    backend.add_tokens(added)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
    )


def render_prompt(step: Step, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the model sees before a step: tools, history and the opened assistant turn."""
    prompt = tokenizer.apply_chat_template(
        step.messages, tools=list(step.tools), add_generation_prompt=True, tokenize=False
    )
    return cast(str, prompt)
