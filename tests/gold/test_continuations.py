import json

import pytest
from cases import load_syntaxes
from regions.test_partition import sentencepiece_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rest_trl.gold.continuations import GoldContinuations, GoldForms, reasoning_end
from rest_trl.regions import Partitioner
from rest_trl.tool_calls import Part, get_syntax


SYNTAXES = load_syntaxes()
CASES = [
    pytest.param(name, case.text, id=f"{name}: {case.title}")
    for name, syntax in SYNTAXES.items()
    for case in syntax.cases
    if case.calls and case.well_formed
]


class TestReasoningEnd:
    @pytest.mark.parametrize(("name", "text"), CASES)
    def test_lies_between_reasoning_and_the_first_call_in_every_syntax(self, name, text):
        syntax = get_syntax(name)
        parsed = syntax.parse(text)
        if not all(block.closed for block in parsed.blocks):
            return
        end = reasoning_end(text, parsed, syntax)
        first = next(start for start, _, part in parsed.parts if part is Part.TOOL_NAME)
        assert 0 <= end <= first
        between = [part for start, stop, part in parsed.parts if stop > end and start < first]
        assert Part.REASONING not in between and Part.RESPONSE not in between
        assert syntax.end_think not in text[end:first] or not syntax.end_think

    @pytest.mark.parametrize(
        ("name", "text", "before"),
        [
            (
                "hermes",
                '<think>a</think>\n\n<tool_call>{"name": "f", "arguments": {}}</tool_call>',
                "<think>a</think>",
            ),
            ("hermes", 'a</think><tool_call>{"name": "f", "arguments": {}}</tool_call>', "a</think>"),
            (
                "hermes",
                '<think></think>Now\n<tool_call>{"name": "f", "arguments": {}}</tool_call>',
                "<think></think>Now\n",
            ),
            ("hermes", "<think>a</think> No tool fits.", "<think>a</think>"),
            ("hermes", "No tool fits.", ""),
            ("hermes", '<tool_call>{"name": "f", "arguments": {}}</tool_call>', ""),
            ("hermes", "<think>a</think><tool_call>{not json", "<think>a</think>"),
            ("hermes", "<think>a", None),
            ("hermes", '<think>a<tool_call>{"name": "f", "arguments": {}}</tool_call>', None),
            ("llama3_json", 'Easy: {"name": "f", "parameters": {}}', "Easy: "),
            (
                "openai",
                "<|channel|>analysis<|message|>a<|end|><|start|>assistant"
                "<|channel|>commentary to=functions.f<|message|>{}",
                "<|channel|>analysis<|message|>a<|end|>",
            ),
        ],
    )
    def test_is_behind_what_a_turn_has_before_its_first_call(self, name, text, before):
        syntax = get_syntax(name)
        end = reasoning_end(text, syntax.parse(text), syntax)
        assert (None if end is None else text[:end]) == before

    def test_of_reasoning_that_the_prompt_has_opened_is_its_closing_tag(self):
        syntax = get_syntax("hermes")
        assert reasoning_end("I think", syntax.parse("I think"), syntax) == 0
        assert reasoning_end("I think", syntax.parse("I think"), syntax, opened=True) is None
        closed = "I think</think>"
        assert reasoning_end(closed, syntax.parse(closed), syntax, opened=True) == len(closed)

    def test_of_a_syntax_without_tags_is_known_from_a_call_alone(self, monkeypatch):
        syntax = get_syntax("llama3_json")
        monkeypatch.setattr(syntax, "end_think", "")
        assert reasoning_end("No tool fits.", syntax.parse("No tool fits."), syntax) is None
        text = 'Easy: {"name": "f", "parameters": {}}'
        assert reasoning_end(text, syntax.parse(text), syntax) == 6


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
GOLD = f"<think>\nsure\n</think>\n\n{CALL}"
PROMPT = [1, 2, 3]


def split_tags(text):
    """A tokenizer of byte-level BPE for which tags are no tokens, and `>` and a line break after it are one."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator([text] * 9, trainers.BpeTrainer(vocab_size=len(alphabet) + 1, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|im_end|>")


class Finder:
    """Continuations of one completion of a prompt, as ids and as text."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.end = tokenizer.eos_token_id
        self.partitioner = Partitioner(tokenizer, get_syntax("hermes"))
        self.continuations = GoldContinuations(tokenizer, self.partitioner, [self.end])
        self.forms = GoldForms()

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def find(self, *texts, gold=GOLD, prompt=PROMPT):
        completions = [[*self.ids(text), self.end] for text in texts]
        turns = self.partitioner.read_lists(completions).turns
        rollout = [(prompt, *row) for row in zip(completions, turns, strict=True)]
        return self.continuations.find(rollout, [gold] * len(texts), self.forms)


class TestContinuations:
    def test_ids_are_those_of_the_policys_own_exact_call(self, tokenizer):
        own, other = f"<think>a</think>\n\n{CALL}", "<think>b</think> No."
        finder = Finder(tokenizer)
        (length, forms), (other_length, other_forms) = finder.find(own, other)
        ids = [*finder.ids(own), finder.end]
        assert forms == other_forms == [tuple(ids[length:])]
        assert tokenizer.decode(ids[:length]) == "<think>a</think>"
        assert tokenizer.decode(finder.ids(other)[:other_length]) == "<think>b</think>"

    def test_no_token_lies_across_the_end_of_the_reasoning(self):
        finder = Finder(split_tags(">\n"))
        own = f"<think>a</think>\n\n{CALL}"
        ids = [*finder.ids(own), finder.end]
        assert ">\n" in [finder.tokenizer.decode([token]) for token in ids]
        (length, forms), (other_length, other_forms) = finder.find(own, "<think>b</think>No")
        assert finder.tokenizer.decode(ids[:length]) == "<think>a</think"
        assert forms == [tuple(ids[length:])]
        assert finder.tokenizer.decode(finder.ids("<think>b</think>No")[:other_length]) == "<think>b</think>"
        assert finder.tokenizer.decode(other_forms[0][:-1]) == "\n\n" + CALL

    def test_sentencepiece_puts_no_blank_before_the_call(self):
        finder = Finder(sentencepiece_tokenizer("llama"))
        own = f"<think>a</think>\n\n{CALL}"
        (length, forms), _ = finder.find(own, "<think>b</think> No.")
        assert forms == [(*finder.ids(own)[length:], finder.end)]

    def test_white_space_before_a_gold_call_without_reasoning_is_the_policys(self, tokenizer):
        finder = Finder(tokenizer)
        wrong = f"<think>a</think>\n\n{CALL.replace('1', '2')}"
        for _, forms in finder.find(wrong, "<think>b</think> No.", wrong, gold=CALL):
            assert tokenizer.decode(forms[0][:-1]) == "\n\n" + CALL

    def test_forms_of_earlier_rollouts_are_kept_for_their_prompt_and_bounded(self, tokenizer):
        finder = Finder(tokenizer)
        spaced = [f"<think>a</think>\n\n{CALL.replace(': ', ':' + ' ' * number)}" for number in range(2, 7)]
        for text in spaced:
            finder.find(text)
        ((_, forms),) = finder.find("<think>b</think> No.")
        written = [tokenizer.decode(form[:-1]) for form in forms]
        assert written == ["\n\n" + CALL, *(text.removeprefix("<think>a</think>") for text in spaced[-3:])]
        ((_, others),) = finder.find("<think>b</think> No.", prompt=[4])
        assert len(others) == 1

    def test_forms_survive_a_checkpoint(self, tokenizer):
        finder = Finder(tokenizer)
        finder.find(f"<think>a</think>\n\n{CALL.replace(': ', ':  ')}")
        before = finder.find("<think>b</think> No.")
        restored = GoldForms()
        restored.known = json.loads(json.dumps(finder.forms.state()))["attributes"]["known"]
        finder.forms = restored
        assert finder.find("<think>b</think> No.") == before
        assert len(before[0].forms) == 2

    @pytest.mark.parametrize("gold", [None, [GOLD], "<think>a</think> No.", "<tool_call>{</tool_call>"])
    def test_are_none_for_golds_without_calls(self, gold, tokenizer):
        assert Finder(tokenizer).find(f"<think>a</think>\n\n{CALL}", gold=gold) == [None]

    def test_follow_no_reasoning_without_an_end(self, tokenizer):
        finder = Finder(tokenizer)
        ((length, forms),) = finder.find("<think>a")
        assert length == len(finder.ids("<think>a")) + 1 and forms == []
        opened = finder.ids("<think>\n")
        assert [row.forms for row in finder.find("I go on", prompt=opened)] == [[]]

    def test_a_call_that_was_cut_off_is_no_form(self, tokenizer):
        finder = Finder(tokenizer)
        completion = finder.ids(f"<think>a</think>\n\n{CALL.replace(': ', ':  ')}")
        turns = finder.partitioner.read_lists([completion]).turns
        (found,) = finder.continuations.find([(PROMPT, completion, turns[0])], [GOLD], finder.forms)
        assert len(found.forms) == 1
