import json
import random

import pytest
from cases import load_syntaxes
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rest_trl.regions import Partitioner
from rest_trl.rewards import ToolCallReward, call_score, json_equal
from rest_trl.rewards.scoring import num_points
from rest_trl.rewards.segments import call_segments
from rest_trl.tool_calls import SYNTAXES, ToolCall, get_syntax


CASES = [(name, case) for name, syntax in load_syntaxes().items() for case in syntax.cases]
# What a policy might sample anywhere.
TOKENS = ['"', "}", "{", ",", ":", "]", ")", "=", "a", "7", " ", "\n", "</", ">", "<", '"}', '",', '": "', ', "', "x="]


@pytest.fixture(scope="module")
def partitioners(tokenizer):
    return {name: Partitioner(tokenizer, get_syntax(name)) for name in SYNTAXES}


def segments_of(partitioner, ids, gold, value=1.0):
    turns = partitioner.read_lists([ids]).turns[0]
    return call_segments(turns, gold, partitioner.tool_call_syntax, value, json_equal)


# Names are not written as they are meant, arguments stand before the name, or reasoning is not closed, which gives no
# segments: less is decided than could be, and nothing wrong.
UNDECIDED = ("unicode", "unclosed reasoning", "arguments first", "quoted keys, white space")


def state_at(segments, column):
    """What the token of a column is compared by, and what is decided before it."""
    return next(((s.state, s.decided) for s in segments if s.start <= column < s.stop), None)


class TestCallSegments:
    @pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}-{case.title}" for name, case in CASES])
    def test_depend_on_the_prefix_alone(self, name, case, tokenizer, partitioners):
        """The credit is unbiased only if no token, by what it is, changes what it is itself compared with."""
        ids = tokenizer(case.text)["input_ids"]
        partitioner = partitioners[name]
        gold = [ToolCall(*call) for call in case.calls] or [ToolCall("get_weather", {"city": "Oslo"})]
        rng = random.Random(len(ids))
        alternatives = [tokenizer(token)["input_ids"][:1] for token in TOKENS]
        for column in rng.sample(range(len(ids)), min(len(ids), 12)):
            states = {
                state_at(segments_of(partitioner, [*ids[:column], *rest], gold), column)
                for rest in [ids[column:], *rng.sample(alternatives, 6)]
            }
            assert len(states) == 1, (tokenizer.decode(ids[:column]), states)

    @pytest.mark.parametrize("name", SYNTAXES)
    def test_stay_when_reasoning_is_opened_behind_the_call(self, name, tokenizer, partitioners):
        """Whether it is closed later is the future's, and a call before it is a call either way."""
        case = next(case for syntax, case in CASES if syntax == name and len(case.calls) == 1)
        partitioner, syntax = partitioners[name], get_syntax(name)
        ids, gold = tokenizer(case.text)["input_ids"], [ToolCall(*call) for call in case.calls]
        opened = [*ids, *tokenizer(f"\n{syntax.think} so")["input_ids"]]
        closed = [*opened, *tokenizer(syntax.end_think)["input_ids"]]
        whole, *others = (segments_of(partitioner, tokens, gold) for tokens in (closed, opened, opened[:-1]))
        assert len(whole) == 2 * len(gold[0].arguments)
        assert others == [whole, whole]

    @pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}-{case.title}" for name, case in CASES])
    def test_of_a_right_completion_decide_all_its_values(self, name, case, tokenizer, partitioners):
        gold = [ToolCall(*call) for call in case.calls]
        if len({call.name for call in gold}) < len(gold):
            gold = gold[:1]
        segments = segments_of(partitioners[name], tokenizer(case.text)["input_ids"], gold, value=0.5)
        decided, values = sum(segment.part for segment in segments), sum(len(call.arguments) for call in gold)
        if case.title.removeprefix("list: ") in UNDECIDED:
            assert decided <= 0.5 * values
        else:
            assert decided == pytest.approx(0.5 * values)

    def test_name_the_tokens_of_names_and_values(self, tokenizer, partitioners):
        text = '<tool_call>\n{"name": "f", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>'
        gold = [ToolCall("f", {"city": "Oslo", "days": 4})]
        ids = tokenizer(text)["input_ids"]
        segments = segments_of(partitioners["hermes"], ids, gold, value=2.0)
        found = [(tokenizer.decode(ids[s.start : s.stop]), s.state[0], s.decided, s.part) for s in segments]
        assert [piece[1:] for piece in found] == [
            ("name", 0.0, 0.0),
            ("value", 0.0, 2.0),
            ("name", 2.0, 0.0),
            ("value", 2.0, 0.0),
        ]
        assert "city" in found[0][0] and "Oslo" in found[1][0] and "days" in found[2][0] and "3" in found[3][0]
        assert "".join(piece[0] for piece in found) in text

    def test_match_the_first_unused_gold_call_of_the_name(self, tokenizer, partitioners):
        calls = ['{"name": "f", "arguments": {"a": 2}}', '{"name": "f", "arguments": {"a": 1}}']
        ids = tokenizer("".join(f"<tool_call>{call}</tool_call>" for call in calls))["input_ids"]
        gold = [ToolCall("f", {"a": 1}), ToolCall("f", {"a": 1}), ToolCall("g", {"a": 1})]
        segments = segments_of(partitioners["hermes"], ids, gold)
        assert [segment.state[1:3] for segment in segments] == [(0, 0), (0, 0), (1, 1), (1, 1)]
        assert [segment.part for segment in segments] == [0.0, 0.0, 0.0, 1.0]

    def test_count_what_was_right_before_a_call_broke(self, tokenizer, partitioners):
        text = '<tool_call>{"name": "f", "arguments": {"a": 1, "b": [2'
        segments = segments_of(
            partitioners["hermes"], tokenizer(text)["input_ids"], [ToolCall("f", {"a": 1, "b": [2]})]
        )
        assert [segment.decided for segment in segments] == [0.0, 0.0, 1.0, 1.0]
        assert [segment.part for segment in segments] == [0.0, 1.0, 0.0, 0.0]

    def test_count_a_parameter_once(self, tokenizer, partitioners):
        text = '<tool_call>{"name": "f", "arguments": {"a": 1, "a": 1}}</tool_call>'
        segments = segments_of(partitioners["hermes"], tokenizer(text)["input_ids"], [ToolCall("f", {"a": 1})])
        assert [segment.part for segment in segments] == [0.0, 1.0, 0.0, 0.0]
        assert len({segment.state for segment in segments}) == 4

    def test_are_none_in_reasoning_that_is_not_closed(self, tokenizer, partitioners):
        text = '<think> I write <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
        for ending in ("", " </think>"):
            ids = tokenizer(text + ending)["input_ids"]
            assert segments_of(partitioners["hermes"], ids, [ToolCall("f", {"a": 1})]) == []


class TestPartsOfTheReward:
    """What the segments decide, and the rest that is undecided to the end, are the reward."""

    GOLD = [ToolCall("f", {"a": 1, "b": "x"}), ToolCall("g", {"c": [1]})]

    @settings(deadline=None)
    @given(st.lists(st.sampled_from([*GOLD, ToolCall("f", {"a": 2}), ToolCall("h", {"c": [1]})]), max_size=3))
    def test_add_up_to_the_score_where_no_tool_is_called_twice(self, calls):
        tokenizer, partitioner = self.tokenizer, self.partitioner
        assume(len({call.name for call in calls}) == len(calls))  # else the best match may not be the first
        blocks = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
        text = "\n".join(f"<tool_call>{block}</tool_call>" for block in blocks)
        segments = segments_of(partitioner, tokenizer(text)["input_ids"], self.GOLD, value=1 / num_points(self.GOLD))
        right = sum(segment.part for segment in segments)
        # The rest of the score is that of the names: without values nothing else is left of it.
        blind = call_score(calls, self.GOLD, equal=lambda left, right: False)
        assert right + blind == pytest.approx(call_score(calls, self.GOLD))

    @pytest.fixture(autouse=True)
    def _tools(self, tokenizer, partitioners):
        type(self).tokenizer, type(self).partitioner = tokenizer, partitioners["hermes"]


class TestToolCallRewardSegments:
    def test_are_worth_what_the_reward_adds(self, tokenizer, partitioners):
        texts = [f'<tool_call>{{"name": "f", "arguments": {{"a": {value}}}}}</tool_call>' for value in (1, 2)]
        ids = [tokenizer(text)["input_ids"] for text in texts]
        reader = lambda completion_ids: partitioners["hermes"].read_lists(completion_ids).turns  # noqa: E731
        reward = ToolCallReward().bind("hermes", reader, "static", 1)
        arguments = {"completion_ids": ids, "solution": [texts[0]] * 2}
        right, wrong = reward([""] * 2, **arguments)
        segments = reward.segments(**arguments)
        assert sum(segment.part for segment in segments[0]) == pytest.approx(right - wrong)
        assert sum(segment.part for segment in segments[1]) == 0

    def test_are_none_where_the_gold_has_no_call_or_cannot_be_read(self, tokenizer, partitioners):
        ids = [tokenizer('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>')["input_ids"]] * 2
        reader = lambda completion_ids: partitioners["hermes"].read_lists(completion_ids).turns  # noqa: E731
        reward = ToolCallReward().bind("hermes", reader, "static", 1)
        assert reward.segments(completion_ids=ids, solution=["No.", "<tool_call>{"]) == [[], []]

    def test_of_a_reward_without_a_trainer_are_refused(self):
        with pytest.raises(ValueError, match="bound to no trainer"):
            ToolCallReward("hermes").segments(completion_ids=[[1]], solution=[""])
