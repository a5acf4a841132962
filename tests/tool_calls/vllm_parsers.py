"""
What vLLM's parsers find in completions. Runs under a Python that has vLLM and needs no model.

Reads JSON lines `{"parser", "reasoning_parser", "harmony", "tokens", "text", "tools"}` from standard input and writes
for each `{"calls": [[name, arguments], ...], "error": null or a reason}` to standard output.
"""

import json
import logging
import sys
from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.parser.harmony_utils import get_encoding
from vllm.parser.parser_manager import ParserManager


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
    text, is_harmony = line["text"], line["harmony"]
    parser_class = ParserManager.get_parser(
        line["parser"], line["reasoning_parser"], enable_auto_tools=True, is_harmony=is_harmony
    )
    tokenizer = build_tokenizer(tuple(line["tokens"]))
    request = ChatCompletionRequest(model="", messages=[], tools=line["tools"] or None)
    ids = get_encoding().encode(text, allowed_special="all") if is_harmony else tokenizer.encode(text)
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
