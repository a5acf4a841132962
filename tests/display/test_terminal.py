from rest_trl.lab.display.colors import COLORS
from rest_trl.lab.display.completion_files import Completion
from rest_trl.lab.display.described import Inspected
from rest_trl.lab.display.terminal import colored_completion, described_completion, legend
from rest_trl.tool_calls import Region


class TestColoredCompletion:
    def test_has_a_style_per_region(self, tokenizer):
        one, two = tokenizer("ab")["input_ids"], tokenizer("cd")["input_ids"]
        text = colored_completion(one + two, [1] * len(one) + [4] * len(two), tokenizer)
        assert text.plain == "abcd"
        styles = [(span.start, span.end, span.style) for span in text.spans]
        assert styles == [(0, 2, COLORS[Region.FORMAT].terminal), (2, 4, COLORS[Region.REASONING].terminal)]

    def test_keeps_characters_whole(self, tokenizer):
        ids = tokenizer("🌍")["input_ids"]
        assert len(ids) == 4 and colored_completion(ids, [5] * 4, tokenizer).plain == "🌍"


class TestDescribedCompletion:
    def described(self, tokenizer, prompt, coefficients):
        ids = tokenizer("ab [bold]")["input_ids"]
        completion = Completion("One", prompt, {"my_reward": 1.5}, ids, [True] * len(ids), None, None, True)
        values = None if coefficients is None else [coefficients] * len(ids)
        return described_completion(Inspected(completion, [5] * len(ids), values), tokenizer).plain

    def test_shows_prompt_reward_coefficient_and_text(self, tokenizer):
        lines = self.described(tokenizer, "What [red]?", 0.5).splitlines()
        assert lines[:2] == ["What [red]?", "my_reward 1.500"] and lines[-1] == "ab [bold]"
        assert lines[2].startswith("response: ") and lines[2].endswith(" tokens, coefficient 0.500")

    def test_shows_the_end_of_a_long_prompt(self, tokenizer):
        described = self.described(tokenizer, "tools " * 500 + "the question?", None)
        assert described.startswith("… ") and "the question?\n" in described and len(described) < 800
        assert "coefficient" not in described


class TestLegend:
    def test_names_all_regions_in_their_styles(self):
        text = legend()
        assert text.plain.split() == ["format", "tool_name", "parameters", "reasoning", "response"]
        assert [span.style for span in text.spans] == [COLORS[region].terminal for region in list(Region)[1:]]
