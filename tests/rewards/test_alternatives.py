"""Golds whose calls may be made in several ways."""

import json

import pytest
from datasets import Dataset

from rest_trl.regions import Partitioner
from rest_trl.rewards import LayoutReward, ToolCallReward, is_exact
from rest_trl.rewards.binding import Binding, bind_rewards
from rest_trl.rewards.reading import parse_gold
from rest_trl.tool_calls import get_syntax


def call(name="f", **arguments):
    return "<tool_call>" + json.dumps({"name": name, "arguments": arguments}) + "</tool_call>"


TEXT = call(city="Oslo", days=3)
# As in BFCL: values that are as good, and "" where the parameter may be left out.
ALTERNATIVES = [{"city": ["Oslo, Norway"], "days": [3, ""], "unit": ["celsius", ""]}]
GOLD = {"text": TEXT, "alternatives": ALTERNATIVES}
EXACT = [
    TEXT,
    call(city="Oslo, Norway", days=3),
    call(city="Oslo"),
    call(city="Oslo", unit="celsius", days=3),
    call(unit="celsius", city="Oslo, Norway"),
]
WRONG = [
    call(city="Bergen", days=3),
    call(city="Oslo", days=4),
    call(days=3),
    call(city="Oslo", unit="kelvin"),
    call(city="Oslo", wind=1),
    call("g", city="Oslo"),
    TEXT + TEXT,
]


def scored(completion, solution, **kwargs):
    return ToolCallReward("hermes")([completion], solution=[solution], **kwargs)[0]


class TestAlternatives:
    @pytest.mark.parametrize("completion", EXACT)
    def test_that_are_made_earn_the_maximum_and_are_exact(self, completion):
        for alternatives in (ALTERNATIVES, json.dumps(ALTERNATIVES)):
            gold = {"text": TEXT, "alternatives": alternatives}
            assert scored(completion, gold) == 3.0
            assert is_exact(get_syntax("hermes").parse(completion), parse_gold("hermes", gold))

    @pytest.mark.parametrize("completion", WRONG)
    def test_that_are_not_among_them_earn_less(self, completion):
        assert -3 <= scored(completion, GOLD) < 3.0
        assert not is_exact(get_syntax("hermes").parse(completion), parse_gold("hermes", GOLD))

    @pytest.mark.parametrize("completion", EXACT + WRONG + ["Sunny.", "<tool_call>{"])
    def test_that_state_nothing_more_change_nothing(self, completion):
        plain = scored(completion, TEXT)
        for alternatives in (None, [{}], [{"city": ["Oslo"]}], [{"city": [], "days": [3], "unit": []}]):
            gold = {"text": TEXT, "alternatives": alternatives}
            assert scored(completion, gold) == plain
            assert LayoutReward("hermes")([completion], solution=[gold]) == LayoutReward("hermes")(
                [completion], [TEXT]
            )

    def test_belong_to_their_call(self):
        gold = {"text": call(a=1) + call(a=2), "alternatives": [{"a": [5]}, {"a": [6]}]}
        exact = [(1, 2), (5, 6), (6, 5), (2, 5), (1, 6)]
        for pair in [*exact, (1, 5), (2, 6), (5, 7)]:
            assert (scored("".join(call(a=value) for value in pair), gold) == 3.0) == (pair in exact)

    def test_may_be_given_for_each_turn(self):
        turns = [{"role": "assistant", "content": text} for text in (call(city="Oslo, Norway"), "Sunny.")]
        assert scored(turns, [GOLD, "Sunny."]) == 3.0 > scored(turns, [TEXT, "Sunny."])

    def test_are_credited_as_right_values(self, tokenizer):
        partitioner = Partitioner(tokenizer, get_syntax("hermes"))
        reward = ToolCallReward().bind("hermes", lambda ids: partitioner.read_lists(ids).turns, "static", 1)

        def right_values(text, solution):
            (segments,) = reward.segments([tokenizer(text)["input_ids"]], [solution])
            return sum(segment.part > 0 for segment in segments)

        text = call(city="Oslo, Norway", days=3, unit="celsius")
        assert (right_values(text, GOLD), right_values(text, TEXT)) == (3, 1)

    @pytest.mark.parametrize(
        ("alternatives", "cause"),
        [
            ([{}, {}], "one mapping for each of the 1 gold calls"),
            ({}, "one mapping for each"),
            ([{"city": "Oslo"}], "parameters to lists"),
            (["city"], "parameters to lists"),
            ("[", "not valid JSON"),
        ],
    )
    def test_of_another_form_are_refused_before_training(self, alternatives, cause):
        rows = Dataset.from_list([{"solution": {"text": TEXT, "alternatives": json.dumps(alternatives)}}])
        if alternatives == "[":
            rows = Dataset.from_list([{"solution": {"text": TEXT, "alternatives": alternatives}}])
        with pytest.raises(ValueError, match=f"row 0 .*{cause}"):
            bind_rewards([ToolCallReward()], [rows], Binding("hermes", lambda ids: [], "static", 1, {}))

    def test_pass_where_rows_have_some_and_others_none(self):
        golds = [{"text": TEXT, "alternatives": json.dumps(ALTERNATIVES)}, {"text": TEXT, "alternatives": None}]
        rows = Dataset.from_dict({"prompt": ["", ""], "solution": golds})
        bind_rewards([ToolCallReward()], [rows], Binding("hermes", lambda ids: [], "static", 1, {}))
        rewards = ToolCallReward("hermes")([EXACT[1]] * 2, solution=rows["solution"])
        assert rewards[0] == 3.0 > rewards[1]
