"""From token ids to the text that they stand for, with the place of every token in it."""

import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase


def _byte_alphabet() -> dict[str, int]:
    # GPT-2's printable stand-ins for bytes: printable Latin-1 stands for itself, the rest is moved up from U+0100.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(moved)}


def _decoder_types(decoder: Any) -> set[str]:
    # The state is the decoder's part of tokenizer.json: the only place where a sequence of decoders names its members.
    state = json.loads(decoder.__getstate__()) if decoder is not None else {}
    return {member["type"] for member in state.get("decoders", [state]) if "type" in member}


def byte_table(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """
    The bytes that each token id stands for.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A fast tokenizer: byte-level BPE, or SentencePiece (with or without byte fallback).

    Returns:
        `list[bytes]`: indexed by token id; ids that the vocabulary lacks are empty.

    Raises:
        ValueError: if the tokenizer is not of these kinds: its ids cannot be traced to text.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} has no byte table: regions need a fast tokenizer (`tokenizers` library); "
            "load it with AutoTokenizer.from_pretrained(..., use_fast=True)"
        )
    backend = tokenizer.backend_tokenizer  # type: ignore[attr-defined]  # checked: is_fast
    decoders = _decoder_types(backend.decoder)
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    if "ByteLevel" in decoders:
        alphabet = _byte_alphabet()
        for token, index in vocabulary.items():
            if all(character in alphabet for character in token):
                table[index] = bytes(alphabet[character] for character in token)
    elif decoders & {"ByteFallback", "Metaspace"}:
        for token, index in vocabulary.items():
            if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                table[index] = bytes([int(token[3:5], 16)])
            else:
                table[index] = token.replace("▁", " ").encode()
    else:
        raise ValueError(
            f"{type(tokenizer).__name__} has no byte table: its decoder is {sorted(decoders) or 'missing'}, and "
            "regions need byte-level BPE (decoder ByteLevel) or SentencePiece (decoder ByteFallback or Metaspace)"
        )
    for index, token in backend.get_added_tokens_decoder().items():
        table[index] = token.content.encode()
    return table


def byte_offsets(text: str) -> np.ndarray:
    """
    Byte offset of every character.

    Args:
        text (`str` of length `N`):
            Text as [`TokenBytes.text`] returns it: a lone surrogate stands for one undecodable byte.

    Returns:
        `np.ndarray` of shape `(N + 1,)`: the offsets, then the total number of bytes.

    Example:

    ```python
    >>> byte_offsets("aé\\udcff")
    array([0, 1, 3, 4])

    ```
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    widths[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1
    return np.concatenate([[0], np.cumsum(widths)])


class TokenBytes:
    """
    The bytes of sampled tokens, as a syntax reads them.

    Special tokens that are not markers of the syntax, such as the end of turn, have no bytes. `decode` with
    `skip_special_tokens` cannot do this: it also drops markers that are special tokens.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The policy's tokenizer.
        markers (`Collection[str]`):
            Markers of the syntax, see [`~rest_trl.tool_calls.ToolCallSyntax`].
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, markers: Collection[str]) -> None:
        table = byte_table(tokenizer)
        added_tokens = tokenizer.backend_tokenizer.get_added_tokens_decoder()  # type: ignore[attr-defined]
        for index, token in added_tokens.items():
            if token.special and token.content not in markers:
                table[index] = b""
        self.lengths = np.array([len(token) for token in table], dtype=np.int64)
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._buffer = np.frombuffer(b"".join(table), dtype=np.uint8)

    def cover(self, largest_id: int) -> None:
        """Make room for ids up to `largest_id`: a model pads its embeddings, so a policy can sample unknown ids."""
        missing = np.zeros(max(0, largest_id + 1 - len(self.lengths)), np.int64)
        if len(missing):
            self.lengths = np.concatenate([self.lengths, missing])
            self._starts = np.concatenate([self._starts, missing])

    def bytes(
        self, token_ids: np.ndarray, lengths: np.ndarray | None = None, starts: np.ndarray | None = None
    ) -> bytes:
        """
        The bytes of tokens, one after the other.

        Args:
            token_ids (`np.ndarray` of shape `(N,)`):
                Token ids that [`cover`](TokenBytes.cover) has made room for.
            lengths, starts (`np.ndarray` of shape `(N,)`, *optional*):
                Number of bytes of each token and where they start in the result, if they are known already.

        Returns:
            `bytes`
        """
        # One gather from one buffer takes half the time of joining a list of bytes.
        if lengths is None or starts is None:
            lengths = self.lengths[token_ids]
            starts = np.cumsum(lengths) - lengths
        index = np.repeat(self._starts[token_ids] - starts, lengths)
        index += np.arange(len(index))
        return self._buffer.take(index).tobytes()

    def text(self, completion_ids: Sequence[int]) -> str:
        """
        The text of a completion.

        Args:
            completion_ids (`Sequence[int]`):
                Sampled token ids.

        Returns:
            `str`: a byte of a character that is cut off becomes a lone surrogate.
        """
        token_ids = np.array(completion_ids, dtype=np.int64)
        self.cover(int(token_ids.max(initial=0)))
        return self.bytes(token_ids).decode("utf-8", "surrogateescape")
