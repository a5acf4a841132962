import pytest

from rest_trl.regions.token_bytes import TokenBytes
from rest_trl.rollouts.reasoning import ReasoningEnd
from rest_trl.tool_calls import SYNTAXES, get_syntax


def reasoning_end(tokenizer, name="hermes"):
    syntax = get_syntax(name)
    return ReasoningEnd(TokenBytes(tokenizer, syntax.markers), syntax)


def end_of(tokenizer, prompt, completion, name="hermes"):
    """What is before the end of the reasoning."""
    ids = tokenizer(completion)["input_ids"]
    count = reasoning_end(tokenizer, name).find(tokenizer(prompt)["input_ids"], ids)
    return None if count is None else tokenizer.decode(ids[:count])


class TestFind:
    PROMPT = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"

    @pytest.mark.parametrize(
        ("completion", "before"),
        [
            ("<think>\nyes\n</think>\n<tool_call>", "<think>\nyes\n</think>"),
            ("\n <think>yes</think> <think>no</think>", "\n <think>yes</think>"),
            ("<think></think>", "<think></think>"),
            ("<think> it never ends <tool_call>\n{}\n</tool_call>", None),
            ("<think", None),
            ("", None),
        ],
    )
    def test_is_behind_the_closing_tag(self, completion, before, tokenizer):
        assert end_of(tokenizer, self.PROMPT, completion) == before

    @pytest.mark.parametrize("completion", ["<tool_call>\n</think>", "Paris</think>", "<thin ice</think>"])
    def test_without_reasoning_is_behind_the_token_that_shows_it(self, completion, tokenizer):
        before = end_of(tokenizer, self.PROMPT, completion)
        assert completion.startswith(before) and not "<think>".startswith(before)
        shorter = tokenizer.decode(tokenizer(before)["input_ids"][:-1])
        assert "<think>".startswith(shorter)

    @pytest.mark.parametrize("opening", ["<think>", "<think>\n", "<think>\n\n"])
    def test_knows_reasoning_that_the_prompt_opens(self, opening, tokenizer):
        assert end_of(tokenizer, self.PROMPT + opening, "yes</think>\n") == "yes</think>"
        assert end_of(tokenizer, self.PROMPT + opening, "<tool_call>") is None

    def test_is_not_misled_by_tags_that_the_prompt_mentions(self, tokenizer):
        before = end_of(tokenizer, "Reason in <think> and </think>." + self.PROMPT, "sunny</think>")
        assert "sunny".startswith(before)
        assert "sunny".startswith(end_of(tokenizer, self.PROMPT + "<think>\n\n</think>\n\n", "sunny</think>"))

    def test_depends_on_no_token_behind_it(self, tokenizer):
        ids = tokenizer("<think>a</think> b <think>c</think> d")["input_ids"]
        found = reasoning_end(tokenizer).find([], ids)
        assert [reasoning_end(tokenizer).find([], ids[:n]) for n in range(len(ids) + 1)] == (
            [None] * found + [found] * (len(ids) + 1 - found)
        )


class TestSyntaxes:
    @pytest.mark.parametrize("name", sorted(set(SYNTAXES)))
    def test_have_tags_that_their_parse_knows(self, name):
        syntax = get_syntax(name)
        block = syntax.parse(f"{syntax.think}yes{syntax.end_think}").blocks[0]
        assert (block.kind, block.closed) == ("reasoning", True)
        assert syntax.end_think in syntax.markers

    def test_without_tags_are_refused(self, tokenizer):
        syntax = get_syntax("hermes")
        syntax.end_think = ""
        with pytest.raises(ValueError, match="'hermes' does not say it: set its attributes `think` and `end_think`"):
            ReasoningEnd(TokenBytes(tokenizer, syntax.markers), syntax)
