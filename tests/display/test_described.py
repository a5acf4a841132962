import pytest

from rest_trl.lab.display.completion_files import Completion
from rest_trl.lab.display.described import Inspected, Piece, described_piece, has_turns, pieces_of
from rest_trl.lab.display.page import html_page
from rest_trl.lab.display.terminal import described_completion
from rest_trl.regions import Region


def completion(policy, **facts):
    ids = list(range(5, 5 + len(policy)))
    return Completion("A", None, {"advantage": 0.25}, ids, policy, None, None, True)._replace(**facts)


DIALOGUE = completion(
    [True] * 2 + [False] * 3 + [True] * 2,
    advantages=[1.0, 1.0, 0.0, 0.0, 0.0, -0.5, 0.5],
    turn_rewards={"f": [1.0, 0.5], "g": [0.0, -1.0]},
)
ITEM = Inspected(DIALOGUE, [4, 4, 0, 0, 0, 5, 5], [1.0, 1.0, 0.0, 0.0, 0.0, 0.5, 1.5])


class TestPieces:
    def test_are_the_turns_and_what_lies_between_them(self):
        assert pieces_of(DIALOGUE) == [Piece(0, 2, 0), Piece(2, 5, None), Piece(5, 7, 1)]
        assert pieces_of(completion([False, True])) == [Piece(0, 1, None), Piece(1, 2, 0)]
        assert pieces_of(completion([])) == []

    @pytest.mark.parametrize(("policy", "expected"), [([True] * 3, False), ([True, False], True), ([], False)])
    def test_are_several_where_something_is_not_the_policy_s(self, policy, expected):
        assert has_turns(completion(policy)) is expected

    def test_say_rewards_advantage_and_coefficient_of_their_turn(self):
        first, other, second = pieces_of(DIALOGUE)
        assert described_piece(ITEM, first) == (
            "Turn 1: 2 tokens, f 1.000, g 0.000, advantage 1.000, coefficient 1.000"
        )
        assert described_piece(ITEM, other) == "Not the policy's: 3 tokens"
        assert described_piece(ITEM, second) == (
            "Turn 2: 2 tokens, f 0.500, g -1.000, advantage 0.000 (-0.500 to 0.500), "
            "coefficient 1.000 (0.500 to 1.500)"
        )

    def test_have_the_advantage_of_the_completion_where_all_tokens_have_it(self):
        item = Inspected(DIALOGUE._replace(advantages=None, turn_rewards={}), ITEM.region_ids, None)
        assert described_piece(item, pieces_of(DIALOGUE)[0]) == "Turn 1: 2 tokens, advantage 0.250"


class TestDialogues:
    def test_are_shown_turn_by_turn_in_the_terminal(self, tokenizer):
        pieces = ["I look.", "sunny weather", "It is sunny."]
        regions = [Region.REASONING, Region.NONE, Region.RESPONSE]
        tokens = [
            (token, region.value)
            for text, region in zip(pieces, regions, strict=True)
            for token in tokenizer(text)["input_ids"]
        ]
        ids, region_ids = [token for token, _ in tokens], [region for _, region in tokens]
        shown = completion(list(map(bool, region_ids)), completion_ids=ids)
        text = described_completion(Inspected(shown, region_ids, None), tokenizer)
        lines = text.plain.splitlines()
        places = [lines.index(text) for text in pieces]
        assert [lines[place - 1].split(":")[0] for place in places] == ["Turn 1", "Not the policy's", "Turn 2"]
        dimmed = "".join(text.plain[span.start : span.end] for span in text.spans if span.style == "dim")
        assert "sunny weather" in dimmed and "It is sunny." not in dimmed

    def test_are_shown_turn_by_turn_on_the_page(self, tokenizer):
        page = html_page("P", [ITEM], tokenizer)
        assert page.count("<h3>Turn ") == 2 and "<h3>Turn 2: 2 tokens, f 0.500, g -1.000" in page
        dimmed = page.split('<pre class="other">')[1].split("</pre>")[0]
        assert dimmed.count('class="t r0"') == 3 == page.count('class="t r0"')
        assert "advantage: -0.5000" in page

    def test_of_one_turn_have_no_headings(self, tokenizer):
        item = Inspected(completion([True, True]), [5, 5], None)
        assert "Turn 1" not in described_completion(item, tokenizer).plain
        assert "<h3>" not in html_page("P", [item], tokenizer)
