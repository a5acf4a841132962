import json
import re

import pytest
from cases import load_syntaxes

from rest_trl.gold.texts import gold_texts
from rest_trl.rewards import is_exact
from rest_trl.rewards.reading import parse_gold
from rest_trl.tool_calls import get_syntax


CASES = [
    pytest.param(name, case.text, id=f"{name}: {case.title}")
    for name, syntax in load_syntaxes().items()
    for case in syntax.cases
    if case.calls and case.well_formed and any(call.arguments for call in get_syntax(name).parse(case.text).calls)
]


def stands_in(number, text):
    return re.search(rf"(?<![\w.+-]){re.escape(number)}(?![\w.])", text)


def others_of(call, text):
    """For each argument another value of its type, if it is a word or a number in JSON's notation."""
    words = {name: ["Zu"] for name, value in call.arguments.items() if isinstance(value, str) and value.isalnum()}
    numbers = {name for name, value in call.arguments.items() if type(value) in (int, float)}
    return words | {name: [77] for name in numbers if stands_in(json.dumps(call.arguments[name]), text)}


class TestGoldTexts:
    @pytest.mark.parametrize(("name", "text"), CASES)
    def test_have_every_other_value_in_every_syntax(self, name, text):
        syntax = get_syntax(name)
        calls = syntax.parse(text).calls
        alternatives = [others_of(call, text) for call in calls]
        solution = {"text": text, "alternatives": alternatives}
        texts = gold_texts(solution, syntax, 1 + sum(map(len, alternatives)))
        assert texts[0] == text and len(set(texts)) == len(texts) == 1 + sum(map(len, alternatives))
        gold = parse_gold(name, solution)
        assert all(is_exact(syntax.parse(other), gold) for other in texts)

    @pytest.mark.parametrize(("name", "text"), CASES)
    def test_leave_out_what_may_be_left_out(self, name, text):
        syntax = get_syntax(name)
        calls = syntax.parse(text).calls
        solution = {"text": text, "alternatives": [{argument: [""] for argument in call.arguments} for call in calls]}
        count = sum(len(call.arguments) for call in calls)
        texts = gold_texts(solution, syntax, 1 + count)
        assert len(texts) > 1
        for other in texts[1:]:
            parsed = syntax.parse(other)
            assert not parsed.errors and sum(len(call.arguments) for call in parsed.calls) < count

    def test_are_bounded_and_begin_with_those_that_differ_least(self):
        text = '<tool_call>{"name": "f", "arguments": {"a": 1, "b": [1, 2], "c": "x"}}</tool_call>'
        solution = {"text": text, "alternatives": [{"a": [1.0, 2], "b": [[3]], "c": ['"y"', ""]}]}
        texts = gold_texts(solution, get_syntax("hermes"), 100)
        single = [
            text.replace('"a": 1', '"a": 2'),
            text.replace("[1, 2]", "[3]"),
            text.replace('"x"', r'"\"y\""'),
            text.replace(', "c": "x"', ""),
        ]
        assert texts[0] == text and texts[1:5] == single and len(texts) == 2 * 2 * 3
        assert gold_texts(solution, get_syntax("hermes"), 3) == texts[:3]

    @pytest.mark.parametrize(
        ("solution", "texts"),
        [("gold", ["gold"]), (["gold", "gold"], []), ({"text": "gold", "alternatives": None}, ["gold"])],
    )
    def test_without_alternatives_are_the_data_sets(self, solution, texts):
        assert gold_texts(solution, get_syntax("hermes"), 4) == texts
