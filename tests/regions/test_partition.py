import copy
import json
from functools import lru_cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from rest_trl.regions.partition import partition
from rest_trl.regions.token_bytes import byte_table
from rest_trl.tool_calls import Part, Region, get_syntax


TEXTS = [
    '<think> a "b" </think>\n<tool_call>\n{"name": "get_weather", "parameters": {"city": "Zürich 🌦"}}\n</tool_call>',
    '<tool_call>\n{"name": "add_event", "arguments": {"title": "lunch", "days": [3, {"a": "}"}]}}\n</tool_call>',
    "<response> It is sunny, 21 degrees. </response>",
    "plain text é 東京",
]

# A busy machine is slow, which is no failure; the fixtures are never changed.
relaxed = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=60
)


def sentencepiece_tokenizer(kind):
    """As Llama 2 has it ("llama": byte fallback) or as SentencePiece models without byte tokens ("metaspace")."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(
        [*TEXTS, "".join(map(chr, range(32, 127)))], trainers.BpeTrainer(vocab_size=300, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    # The pre-tokenizer splits off only spaces, so newlines are left to the byte tokens, as in Llama 2.
    merges = [tuple(merge) for merge in model["merges"] if "\n" not in "".join(merge)]
    pieces = ["<unk>", "<s>", "</s>"]
    if kind == "llama":
        pieces += [f"<0x{byte:02X}>" for byte in range(256)]
        pieces += [piece for piece in model["vocab"] if "\n" not in piece]
    else:
        pieces += ["\n", *(piece for piece in model["vocab"] if "\n" not in piece)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=kind == "llama"))
    if kind == "llama":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


@pytest.fixture(scope="module")
def llama_tokenizer():
    return sentencepiece_tokenizer("llama")


def joined(tokenizer, ids):
    table = byte_table(tokenizer)
    return b"".join(table[index] for index in ids)


class TestByteTable:
    @given(data=st.data())
    @relaxed
    def test_of_byte_level_is_what_decoding_gives(self, tokenizer, data):
        ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=30))
        assert joined(tokenizer, ids).decode("utf-8", "replace") == tokenizer.decode(ids)

    def test_of_byte_level_holds_every_byte(self, tokenizer):
        assert len(byte_table(tokenizer)) == len(tokenizer)
        assert {bytes([byte]) for byte in range(256)} <= set(byte_table(tokenizer))

    @given(text=st.sampled_from(TEXTS) | st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"])))
    @relaxed
    def test_of_byte_fallback_is_what_decoding_gives(self, llama_tokenizer, text):
        ids = llama_tokenizer(text, add_special_tokens=False)["input_ids"]
        if text:
            assert joined(llama_tokenizer, ids).decode() == " " + text  # SentencePiece prepends a space
        assert llama_tokenizer.decode(ids) == text

    @pytest.mark.parametrize("text", [text for text in TEXTS if text.isascii()])
    def test_of_metaspace_is_what_decoding_gives(self, text):
        tokenizer = sentencepiece_tokenizer("metaspace")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert joined(tokenizer, ids).decode() == " " + text
        assert tokenizer.decode(ids) == text

    def test_of_byte_fallback_holds_every_byte(self, llama_tokenizer):
        table = byte_table(llama_tokenizer)
        assert [table[llama_tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>")] for byte in range(256)] == [
            bytes([byte]) for byte in range(256)
        ]

    def test_holds_added_tokens_as_they_are_written(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_tokens([AddedToken("<é▁東>", normalized=False)])
        table = byte_table(tokenizer)
        assert table[tokenizer.convert_tokens_to_ids("<é▁東>")] == "<é▁東>".encode()
        assert table[tokenizer.convert_tokens_to_ids("<think>")] == b"<think>"

    def test_of_a_slow_tokenizer_does_not_exist(self):
        with pytest.raises(ValueError, match=r"ByT5Tokenizer has no byte table: regions need a fast .*use_fast=True"):
            byte_table(ByT5Tokenizer())

    @pytest.mark.parametrize(
        ("decoder", "found"), [(decoders.WordPiece(), r"its decoder is \['WordPiece'\]"), (None, "is missing")]
    )
    def test_of_another_kind_does_not_exist(self, decoder, found):
        wordpiece = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
        if decoder is not None:
            wordpiece.decoder = decoder
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=wordpiece, pad_token="[UNK]")
        with pytest.raises(ValueError, match=f"has no byte table.*{found}.*need byte-level BPE.*or SentencePiece"):
            partition(torch.tensor([[1, 2]]), tokenizer, "hermes")


@lru_cache
def texts_of_tokens(tokenizer, name):
    """The bytes of every token that count: special tokens are no text, unless the syntax is made of them."""
    texts = dict(enumerate(byte_table(tokenizer)))
    for index, token in tokenizer.backend_tokenizer.get_added_tokens_decoder().items():
        if token.special and token.content not in get_syntax(name).markers:
            texts[index] = b""
    return texts


def naive_parts(ids, tokenizer, name):
    """The rule, byte by byte: a token has the highest of the parts of its bytes, one without bytes is structure."""
    tokens = [texts_of_tokens(tokenizer, name).get(index, b"") for index in ids]
    text = b"".join(tokens).decode("utf-8", "surrogateescape")
    part_of_byte = []
    for start, end, part in get_syntax(name).parse(text).parts:
        part_of_byte += [part] * len(text[start:end].encode("utf-8", "surrogateescape"))
    parts, position = [], 0
    for token in tokens:
        parts.append(max(part_of_byte[position : position + len(token)], default=Part.STRUCTURE))
        position += len(token)
    return parts


def naive_regions(ids, mask, tokenizer, name):
    """Each run of the mask by itself; no region outside."""
    regions, start = [Region.NONE] * len(ids), 0
    while start < len(ids):
        end = start
        while end < len(ids) and mask[end]:
            end += 1
        regions[start:end] = [part.region for part in naive_parts(ids[start:end], tokenizer, name)]
        start = end + 1
    return [int(region) for region in regions]


@lru_cache
def sampled_ids(tokenizer):
    """Sequences as a policy samples them: usual tokens, single bytes, halves of characters, tokens of no text."""
    byte_ids = {token: index for index, token in enumerate(byte_table(tokenizer)) if len(token) == 1}
    pieces = st.sampled_from(
        [
            *TEXTS,
            '{"name": "f", ',
            '"parameters": {"é": ',
            '{"a": "🌦", "b": 1}}',
            "<tool_call>",
            "</think>",
            "\n{",
            '"',
        ]
    )
    encoded = pieces.map(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
    single_bytes = pieces.map(lambda text: [byte_ids[bytes([byte])] for byte in text.encode()])
    halves = st.sampled_from("é東🌦").flatmap(
        lambda character: st.integers(1, len(character.encode()) - 1).map(
            lambda length: [byte_ids[bytes([byte])] for byte in character.encode()[:length]]
        )
    )
    anything = st.lists(st.integers(0, len(tokenizer) + 20), min_size=1, max_size=3)
    return st.lists(encoded | single_bytes | halves | anything, min_size=1, max_size=8).map(
        lambda lists: [index for ids in lists for index in ids]
    )


class TestPartition:
    @pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
    @pytest.mark.parametrize("name", ["hermes", "rlla"])
    @given(data=st.data())
    @relaxed
    def test_is_that_of_the_bytes_of_the_sampled_tokens(self, tokenizer, llama_tokenizer, name, kind, data):
        tokenizer = tokenizer if kind == "byte-level" else llama_tokenizer
        rows = data.draw(st.lists(sampled_ids(tokenizer), min_size=1, max_size=3))
        width = max(map(len, rows))
        masks = []
        for row in rows:
            switches = data.draw(st.sets(st.integers(0, len(row) - 1), max_size=4))  # where turns begin and end
            mask, policy = [], data.draw(st.booleans())
            for position in range(len(row)):
                policy ^= position in switches
                mask.append(int(policy))
            masks.append(mask + [1] * (width - len(row)))
        completion_mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        found = partition(ids, tokenizer, name, completion_mask, torch.tensor(masks))
        for row, mask, regions in zip(rows, masks, found.tolist(), strict=True):
            padding = [int(Region.NONE)] * (width - len(row))
            assert regions == naive_regions(row, mask[: len(row)], tokenizer, name) + padding

    def encode(self, tokenizer, *texts):
        return tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt")["input_ids"]

    def test_names_the_regions_of_a_call(self, tokenizer):
        ids = self.encode(tokenizer, TEXTS[0] + "<|im_end|>")
        regions = partition(ids, tokenizer, "rlla")
        assert regions.shape == ids.shape and regions.dtype == torch.int8
        assert tokenizer.decode(ids[regions == Region.REASONING]) == ' a "b" '
        assert tokenizer.decode(ids[regions == Region.TOOL_NAME]) == "get_weather"
        assert tokenizer.decode(ids[regions == Region.PARAMETERS]).strip() == '{"city": "Zürich 🌦"}}'
        assert regions[0, 0] == regions[0, -1] == Region.FORMAT

    def test_gives_padding_no_region(self, tokenizer):
        ids = self.encode(tokenizer, *(text + "<|im_end|>" for text in TEXTS))
        assert (ids == tokenizer.pad_token_id).any()
        regions = partition(ids, tokenizer, "rlla")
        assert torch.equal(regions == Region.NONE, ids == tokenizer.pad_token_id)
        for row, text in zip(regions, TEXTS, strict=True):
            alone = partition(self.encode(tokenizer, text + "<|im_end|>"), tokenizer, "rlla")
            assert torch.equal(row[: alone.size(1)], alone[0])

    def test_takes_the_first_end_of_sequence_for_sampled_where_it_also_pads(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
        end = tokenizer.eos_token_id
        ids = torch.tensor([[*self.encode(tokenizer, "hi")[0].tolist(), end, end, end]])
        regions = partition(ids, tokenizer, "hermes")[0].tolist()
        assert regions[-3:] == [Region.FORMAT, Region.NONE, Region.NONE]
        assert set(regions[:-3]) == {Region.RESPONSE}

    def test_needs_a_mask_or_a_padding_token(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        ids = self.encode(tokenizer, TEXTS[0])
        expected = partition(ids, tokenizer, "rlla")
        tokenizer.pad_token = None
        assert torch.equal(partition(ids, tokenizer, "rlla", torch.ones_like(ids)), expected)
        with pytest.raises(ValueError, match="no padding token: give completion_mask"):
            partition(ids, tokenizer, "rlla")

    def test_parses_each_turn_by_itself(self, tokenizer):
        turns = ['<tool_call>\n{"name": "f", "arguments": {"a": ', "1}}\n</tool_call>"]
        first, result, second = (self.encode(tokenizer, text)[0] for text in (turns[0], "<tool_response> 7", turns[1]))
        ids = torch.cat([first, result, second]).unsqueeze(0)
        tool_mask = torch.ones_like(ids)
        tool_mask[0, len(first) : len(first) + len(result)] = 0
        regions = partition(ids, tokenizer, "hermes", tool_mask=tool_mask)[0]
        alone = [partition(part.unsqueeze(0), tokenizer, "hermes")[0] for part in (first, second)]
        assert torch.equal(regions[: len(first)], alone[0])
        assert regions[len(first) : len(first) + len(result)].eq(Region.NONE).all()
        assert torch.equal(regions[-len(second) :], alone[1])
        assert Region.PARAMETERS in alone[0] and Region.PARAMETERS not in alone[1]  # a second turn starts afresh

    def test_is_that_of_the_sampled_ids_where_tokenising_again_gives_others(self, tokenizer):
        text = TEXTS[0]
        byte_ids = {token: index for index, token in enumerate(byte_table(tokenizer)) if len(token) == 1}
        ids = [byte_ids[bytes([byte])] for byte in text.encode()]
        assert tokenizer.decode(ids) == text
        again = tokenizer(text)["input_ids"]
        assert len(again) < len(ids) / 2
        expected = []
        for start, end, region in get_syntax("rlla").parse(text).spans:
            expected += [int(region)] * len(text[start:end].encode())
        assert partition(torch.tensor([ids]), tokenizer, "rlla")[0].tolist() == expected

    def test_gives_a_straddling_token_to_the_name_then_parameters_then_format_then_text(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        merged = ['": "f', 'f", "', 's": {"a', ' end</think>\n<tool_call>\n{"', "}}\n</tool_call> Bye"]
        tokenizer.add_tokens([AddedToken(content, normalized=False) for content in merged])
        name, name_end, argument, tags, end = tokenizer.convert_tokens_to_ids(merged)
        pieces = ["<think> the", tags, "name", name, '", "', "argument", argument, '": ', "1", end]
        ids = [i for piece in pieces for i in ([piece] if isinstance(piece, int) else tokenizer(piece)["input_ids"])]
        regions = dict(zip(ids, partition(torch.tensor([ids]), tokenizer, "hermes")[0].tolist(), strict=True))
        assert regions[name] == Region.TOOL_NAME
        assert regions[argument] == Region.PARAMETERS
        assert regions[tags] == Region.FORMAT
        assert regions[end] == Region.PARAMETERS
        ids = [*tokenizer('<tool_call>{"name": "')["input_ids"], name_end]
        assert partition(torch.tensor([ids]), tokenizer, "hermes")[0, -1] == Region.TOOL_NAME

    @pytest.mark.parametrize("text", ["plain", '<tool_call>{"name": "f", "arguments": {"a": "x', "<think> so"])
    def test_counts_special_tokens_as_format_wherever_they_are(self, tokenizer, text):
        ids = self.encode(tokenizer, f"{text}<|im_end|>{text}<|im_start|>")
        regions = partition(ids, tokenizer, "hermes")
        special = (ids == tokenizer.eos_token_id) | (ids == tokenizer.convert_tokens_to_ids("<|im_start|>"))
        assert special.sum() == 2
        assert regions[special].eq(Region.FORMAT).all()

    def test_is_the_same_where_the_markers_are_special_tokens(self, tokenizer):
        special = copy.deepcopy(tokenizer)
        markers = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
        special.add_special_tokens({"additional_special_tokens": markers})
        assert set(markers) <= set(special.all_special_tokens)
        ids = self.encode(tokenizer, *TEXTS)
        for name in ("hermes", "rlla"):
            assert torch.equal(partition(ids, special, name), partition(ids, tokenizer, name))

    def test_takes_ids_beyond_the_vocabulary_for_format(self, tokenizer):
        ids = torch.tensor([[*tokenizer("hi")["input_ids"], len(tokenizer) + 1000]])
        assert partition(ids, tokenizer, "hermes")[0, -1] == Region.FORMAT

    def test_of_nothing_but_special_tokens_is_format(self, tokenizer):
        ids = torch.full((2, 3), tokenizer.eos_token_id)
        assert partition(ids, tokenizer, "hermes").eq(Region.FORMAT).all()

    @pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
    def test_of_nothing_is_nothing(self, tokenizer, shape):
        assert partition(torch.zeros(shape, dtype=torch.long), tokenizer, "hermes").shape == shape

    def test_of_an_unknown_syntax_is_refused(self, tokenizer):
        with pytest.raises(ValueError, match="unknown tool_call_syntax 'xml'"):
            partition(torch.tensor([[1]]), tokenizer, "xml")

    def test_is_exact_on_real_completions(self, paper_data, tokenizer):
        rows = json.loads((paper_data / "rlla" / "rlla_sft.json").read_text(encoding="utf-8"))[::4]
        for row in rows:
            ids = tokenizer(row["output"])["input_ids"]
            expected = [int(part.region) for part in naive_parts(ids, tokenizer, "rlla")]
            assert partition(torch.tensor([ids]), tokenizer, "rlla")[0].tolist() == expected
