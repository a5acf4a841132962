"""
The `released` coefficients against those of the authors' code, for 400 completions.

The released code weighs other tokens than it means to. `synthetic.released` states its faults exactly: it gives every
golden weight of the real rows, and the weights of the synthetic rows are computed with it. What is left is to show
that its spans differ from ours only by those faults.
"""

import gzip
import json
import re
from collections import Counter

import pytest
import torch
from synthetic.released import released_spans, released_tokens
from transformers import AutoTokenizer

from rest_trl.regions.coefficients import released_coefficients
from rest_trl.regions.partition import Partitioner
from rest_trl.tool_calls import Part, Region, get_syntax


STEPS = (0, 100, 300)
# Rows that differ in nothing but the ends of spans, and all rows without another fault, by the folder they are in.
ROWS_WITHOUT_OTHER_FAULTS = {"data": (168, 168), "synthetic": (169, 170)}
KINDS = {Part.TOOL_NAME: "name", Part.REASONING: "reasoning"}
TAG = re.compile(r"</?(?:think|tool_call|response)>")
BOUNDARY = "a span loses the token it ends in, and the one it starts inside"
LATER_CALL = "only the first call of a block is marked"
UNPAIRED = "a tag counts only with its partner, and reasoning only between two tags"
QUOTED = "tags that the reasoning quotes are taken for tags"
BRACES = "braces inside strings count"


def read_golden(folder):
    with gzip.open(folder / "golden" / "released_golden.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def golden(paper_data):
    return read_golden(paper_data)


@pytest.fixture(scope="module")
def golden_tokenizer(paper_data):
    return AutoTokenizer.from_pretrained(paper_data / "golden" / "tokenizer")


def our_spans(text):
    """Our partition in the same form, and the spans that belong to a second or later call of their block."""
    spans, later, names, arguments = set(), set(), 0, 0
    parts = get_syntax("rlla").parse(text).parts
    for index, (start, end, part) in enumerate(parts):
        if part is Part.TAG:
            names = arguments = 0
            spans |= {(*(start + edge for edge in tag.span()), "tag") for tag in TAG.finditer(text[start:end])}
        elif part in KINDS:
            kind = KINDS[part]
            spans.add((start, end, kind))
            if kind == "name":
                names += 1
                if names > 1:
                    later.add((start, end, kind))
        elif part.region is Region.PARAMETERS and (index == 0 or parts[index - 1][2].region is not Region.PARAMETERS):
            end = next((s for s, _, p in parts[index:] if p.region is not Region.PARAMETERS), len(text))
            arguments += 1
            spans.add((start, end, "parameters"))
            if arguments > 1:
                later.add((start, end, "parameters"))
    return spans, later


def reasons(text):
    """The faults by which the released spans of `text` differ from ours; `None` for what they do not explain."""
    ours, later = our_spans(text)
    theirs = released_spans(text)
    reasoning = [(start, end) for start, end, kind in ours if kind == "reasoning"]
    quotes = any(TAG.search(text, start, end) for start, end in reasoning)
    for start, end, kind in ours ^ theirs:
        tag = text[start:end].strip("</>")
        if (start, end, kind) in later:
            yield LATER_CALL
        elif quotes:
            yield QUOTED
        elif (
            (kind == "tag" and not (f"<{tag}>" in text and text.find(f"</{tag}>") > text.find(f"<{tag}>")))
            or (kind == "reasoning" and "</think>" not in text)
            or (kind in ("name", "parameters") and "</tool_call>" not in text)
        ):
            yield UNPAIRED
        elif kind == "parameters" and re.search(r'"[^"]*[{}]', text[start:end]):
            yield BRACES
        else:
            yield None


class TestReleasedCode:
    """The statement of the released code that the other tests rely on."""

    def test_gives_every_weight_of_the_real_rows(self, shared_data):
        tokenizer = AutoTokenizer.from_pretrained(shared_data / "golden" / "tokenizer")
        for row in read_golden(shared_data):
            encoded = tokenizer(row["completion"], return_offsets_mapping=True, add_special_tokens=False)
            assert encoded["input_ids"] == row["token_ids"]
            for step in STEPS:
                expected = released_tokens(released_spans(row["completion"]), encoded["offset_mapping"], step)
                assert (torch.tensor(row[f"weights_step_{step}"]) - expected).abs().max() <= 1e-6

    @pytest.mark.parametrize(("step", "reasoning"), [(0, 0.6), (100, 0.8), (300, 1.0)])
    def test_loses_the_last_character_of_each_tag(self, step, reasoning):
        text = "<think>abc</think>"
        found = released_tokens(released_spans(text), [(i, i + 1) for i in range(len(text))], step)
        raw = torch.tensor([1.0] * 6 + [0] + [reasoning] * 2 + [0] + [1.0] * 7 + [0])
        assert torch.allclose(found, raw / ((13 + 2 * reasoning) / 15))

    def test_marks_only_the_first_call_of_a_block(self):
        calls = ['{"name": "f", "parameters": {"a": {"b": 1}}}', '{"name": "g", "parameters": {"c": 2}}']
        text = "<tool_call>\n" + "\n".join(calls) + "\n</tool_call>"
        marked = {(kind, text[start:end]) for start, end, kind in released_spans(text)}
        assert marked == {
            ("tag", "<tool_call>"),
            ("tag", "</tool_call>"),
            ("name", "f"),
            ("parameters", '{"a": {"b": 1}}'),
        }

    def test_counts_braces_in_strings_and_marks_no_lone_tag(self):
        text = '<think> a <tool_call>{"name": "f", "parameters": {"a": "}"}}</tool_call>'
        marked = {(kind, text[start:end]) for start, end, kind in released_spans(text)}
        assert marked == {("tag", "<tool_call>"), ("tag", "</tool_call>"), ("name", "f"), ("parameters", '{"a": "}')}


class TestReleasedCoefficients:
    def test_differ_from_the_golden_ones_only_by_those_faults(self, golden, golden_tokenizer, paper_data):
        partitioner = Partitioner(golden_tokenizer, get_syntax("rlla"))
        equal, faults, same_tokens, tokens = 0, Counter(), 0, 0
        for row in golden:
            ids = torch.tensor([row["token_ids"]])
            mask = torch.ones_like(ids)
            part_ids = partitioner(ids, mask)
            theirs = [torch.tensor([row[f"weights_step_{step}"]]) for step in STEPS]
            ours = [released_coefficients(mask=mask, part_ids=part_ids, step=step) for step in STEPS]
            found = set(reasons(row["completion"]))
            assert None not in found, row["id"]
            if all((a - b).abs().max() <= 1e-6 for a, b in zip(ours, theirs, strict=True)):
                equal += 1
            else:
                faults.update(found or {BOUNDARY})
            same_tokens += int(((ours[0] > 0) == (theirs[0] > 0)).sum())
            tokens += ids.numel()
        print(f"\n{equal} of {len(golden)} rows equal; rows by fault (a row can have several): {dict(faults)}")
        print(f"{same_tokens / tokens:.2%} of {tokens} tokens are weighed by both or by neither")
        # The test below proves that it is nothing but the ends of spans.
        assert faults[BOUNDARY] == ROWS_WITHOUT_OTHER_FAULTS[paper_data.name][0]
        assert same_tokens / tokens > 0.8

    def test_are_the_golden_ones_on_tokens_without_a_fault(self, golden, golden_tokenizer, paper_data):
        """With the released rule for the ends of spans on our spans, rows without another fault are equal."""
        checked = 0
        for row in golden:
            if any(reasons(row["completion"])):
                continue
            encoded = golden_tokenizer(row["completion"], return_offsets_mapping=True, add_special_tokens=False)
            spans, _ = our_spans(row["completion"])
            for step in STEPS:
                expected = released_tokens(spans, encoded["offset_mapping"], step)
                assert (torch.tensor(row[f"weights_step_{step}"]) - expected).abs().max() <= 1e-6
            checked += 1
        assert checked == ROWS_WITHOUT_OTHER_FAULTS[paper_data.name][1]
