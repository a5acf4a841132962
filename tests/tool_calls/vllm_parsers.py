"""
What vLLM's parsers find in completions. Runs under a Python that has vLLM and needs no model.

Reads JSON lines `{"format", "markers", "text", "reasons", "tools"}` from standard input and writes for each
`{"calls": [[name, arguments], ...], "error": null or a reason}` to standard output.
"""

import json
import logging
import re
import sys
from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.parser.harmony_utils import get_encoding
from vllm.parser.parser_manager import ParserManager


# What a server would be started with for a model that reasons, by the marker that ends its reasoning.
REASONING_PARSERS = {"</think>": "deepseek_r1", "[/THINK]": "mistral", "<channel|>": "gemma4"}
# Tokenizers of Mistral before v11 have no `[ARGS]`, and their models write lists.
MISTRAL_LIST = re.compile(r"\[TOOL_CALLS\]\s*[\[{]")
# Tokens that a parser asks its tokenizer for, beyond the markers of our formats.
MORE_TOKENS = {
    "deepseek_v3": ["<think>", "</think>"],
    "deepseek_v31": ["<think>", "</think>"],
    "gemma4": ["<|turn>", "<|tool_response>"],
    "llama3_json": ["<|python_tag|>"],
}


@lru_cache
def build_tokenizer(tokens: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Bytes, and the markers as special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in tokens])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def parse(line: dict) -> list[tuple[str, dict]]:
    name, text = line["format"], line["text"]
    markers = [marker for marker in line["markers"] if marker != "[ARGS]" or not MISTRAL_LIST.search(text)]
    parser_name = "llama4_pythonic" if name == "pythonic" and "<|python_start|>" in text else name
    reasoning_parser = None
    if name == "openai":
        reasoning_parser = "openai_gptoss"
    elif line["reasons"]:
        reasoning_parser = next((parser for end, parser in REASONING_PARSERS.items() if end in markers), None)
    parser_class = ParserManager.get_parser(
        parser_name, reasoning_parser, enable_auto_tools=True, is_harmony=name == "openai"
    )
    tokenizer = build_tokenizer((*markers, *MORE_TOKENS.get(name, ())))
    request = ChatCompletionRequest(model="", messages=[], tools=line["tools"] or None)
    ids = get_encoding().encode(text, allowed_special="all") if name == "openai" else tokenizer.encode(text)
    parser = parser_class(tokenizer, request.tools)
    _, _, calls = parser.parse(text, request, enable_auto_tools=True, model_output_token_ids=ids)
    return [(call.name, json.loads(call.arguments)) for call in calls or []]


def main() -> None:
    logging.disable(logging.CRITICAL)
    for line in map(json.loads, sys.stdin):
        try:
            answer = {"calls": parse(line), "error": None}
        except Exception as error:  # a parser that fails on one text is a result, not the end
            answer = {"calls": [], "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
