import copy
import gzip
import json
import pickle

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import TrainerState

from rest_trl.regions import Turn
from rest_trl.rewards import (
    SCHEDULES,
    LayoutReward,
    RewardBounds,
    ToolCallReward,
    call_score,
    get_reward_func,
    json_equal,
    reward_bounds,
)
from rest_trl.rewards.checks import check_solutions
from rest_trl.tool_calls import ToolCall, get_syntax


THINK = "<think> The user wants the weather. </think>\n"
KEYS = {"rlla": "parameters", "hermes": "arguments"}

# A busy machine is slow, which is no failure.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
tool_calls = st.builds(
    ToolCall, st.sampled_from(["f", "g", "h"]), st.dictionaries(st.sampled_from("abcd"), json_values, max_size=3)
)
# Half-formed completions, as half-trained policies write them.
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<response>", "</response>"]
OBJECTS = ['{"name": "f", "parameters": {"a": 1}}', '{"name": "f", "arguments": {"a": 1}}', '{"name": "g"}']
fragments = st.lists(
    st.sampled_from([*TAGS, *OBJECTS, "\n", "{", "}", '"name"', "null", "x"]) | st.text(max_size=5), max_size=12
).map("".join)


def write(calls, tool_call_syntax="rlla", reasoning=THINK):
    """A completion with these calls."""
    objects = [json.dumps({"name": name, KEYS[tool_call_syntax]: arguments}) for name, arguments in calls]
    blocks = ["\n".join(objects)] if tool_call_syntax == "rlla" else objects
    return reasoning + "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)


def score(reward_func, completion, solution, **kwargs):
    """The reward of a single completion."""
    return reward_func([completion], [solution], **kwargs)[0]


def state(step, max_steps=1000):
    return TrainerState(global_step=step, max_steps=max_steps)


LAYOUT_REWARD, TOOL_CALL_REWARD = LayoutReward("rlla"), ToolCallReward("rlla")
CALL = ToolCall("get_weather", {"city": "Oslo", "days": 2})
TIME = ToolCall("get_time", {})


@pytest.fixture(scope="module")
def golden(paper_data):
    with gzip.open(paper_data / "golden" / "released_golden.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class TestReleasedGolden:
    @pytest.mark.parametrize(
        ("schedule", "step", "column"),
        [("static", 0, "reward_static")]
        + [("released", step, f"reward_scheduled_step_{step}") for step in (0, 50, 105, 150, 300)],
    )
    def test_rewards_equal_those_of_the_released_code(self, golden, schedule, step, column):
        completions, solution = [row["completion"] for row in golden], [row["answer"] for row in golden]
        formats = LayoutReward("rlla", schedule)(completions, solution, trainer_state=state(step))
        correctness = ToolCallReward("rlla", schedule)(completions, solution, trainer_state=state(step))
        rows = [
            (of_syntax, of_calls, row[column])
            for of_syntax, of_calls, row in zip(formats, correctness, golden, strict=True)
            if "error" not in row[column]
        ]
        assert len(rows) == 380
        for of_syntax, of_calls, released in rows:
            assert of_syntax == pytest.approx(released["format"], abs=1e-6)
            assert of_calls == pytest.approx(released["correctness"], abs=1e-6)
            assert of_syntax + of_calls == pytest.approx(released["total"], abs=1e-6)

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_rows_on_which_the_released_code_raises_are_rewarded(self, golden, schedule):
        rows = [row for row in golden if "error" in row["reward_static"]]
        assert len(rows) == 20
        bounds = reward_bounds(schedule, 50, 1000)
        of_syntax, of_calls = LayoutReward("rlla", schedule), ToolCallReward("rlla", schedule)
        for row in rows:
            kwargs = {"solution": [row["answer"]] * 2, "trainer_state": state(50)}
            completions = [row["completion"], row["answer"]]
            formats = of_syntax(completions, **kwargs)
            assert formats[0] in (bounds.layout_min, bounds.layout_max)
            assert formats[1] == bounds.layout_max
            correctness = of_calls(completions, **kwargs)
            assert bounds.correctness_min <= correctness[0] <= bounds.correctness_max
            assert correctness[1] == pytest.approx(bounds.correctness_max, abs=1e-12)

    def test_both_value_comparisons_agree_on_every_row(self, golden):
        # So the golden rows leave the choice between `==` and JSON values open.
        completions, solution = [row["completion"] for row in golden], [row["answer"] for row in golden]
        horizon = ToolCallReward("rlla", "horizon")(completions, solution, trainer_state=state(9, max_steps=9))
        released = ToolCallReward("rlla", "released")(completions, solution, trainer_state=state(150))
        assert horizon == released

    def test_every_gold_answer_earns_the_maximum(self, paper_data):
        rows = json.loads((paper_data / "rlla" / "rlla_sft.json").read_text(encoding="utf-8"))
        answers = [row["output"] for row in rows]
        assert len(answers) == 400
        assert LAYOUT_REWARD(answers, answers) == [1.0] * 400
        # Only tags after the reasoning count, because reasoning may quote them.
        assert TOOL_CALL_REWARD(answers, answers) == [
            3.0 if "<tool_call>" in answer.rpartition("</think>")[2] else 0.0 for answer in answers
        ]


class TestRewardBounds:
    @pytest.mark.parametrize(
        ("schedule", "step", "max_steps", "expected"),
        [
            ("static", 70, 100, (0, 1, -3, 3)),
            ("released", 0, 600, (-2, 2, -2, 2)),
            ("released", 75, 600, (-1, 1.5, -2.5, 2.5)),
            ("released", 150, 600, (-1, 1, -3, 3)),
            ("released", 600, 600, (-1, 1, -3, 3)),
            ("horizon", 0, 40, (-2, 2, -2, 2)),
            ("horizon", 10, 40, (-1.5, 1.75, -2.25, 2.25)),
            ("horizon", 40, 40, (-1, 1, -3, 3)),
            ("horizon", 80, 40, (-1, 1, -3, 3)),
            ("horizon", 0, 0, (-2, 2, -2, 2)),
        ],
    )
    def test_bounds_follow_the_formulas(self, schedule, step, max_steps, expected):
        assert reward_bounds(schedule, step, max_steps) == pytest.approx(RewardBounds(*expected))

    def test_horizon_is_released_on_a_training_of_150_steps(self):
        for step in range(160):
            assert reward_bounds("horizon", step, 150) == reward_bounds("released", step, 150)

    def test_unknown_schedule_names_the_choices(self):
        with pytest.raises(ValueError, match=r"'linear'.*static, released, horizon"):
            reward_bounds("linear", 0, 1)


class TestLayoutReward:
    @pytest.mark.parametrize(
        ("gold", "completion", "expected"),
        [
            ("T C", "T C", 1),
            ("T C", "prose T C prose", 1),
            ("T C", "C T", 0),
            ("T C", "C", 0),
            ("T C", "T", 0),
            ("T C", "T C C", 0),
            ("T C", "T C R", 0),
            ("T C", "T B", 1),
            ("T C", "T <tool_call>", 0),
            ("T C", "<think> C", 0),
            ("T C", "", 0),
            ("T R", "T R", 1),
            ("T R", "R T", 0),
            ("T R", "T R R", 0),
            ("T R", "T R C", 1),
            ("T R", "T C", 0),
            ("T C R", "T C R", 1),
            ("T C R", "T R C", 0),
            ("T C R", "T C", 0),
            ("T", "T", 1),
            ("T", "T T", 0),
            ("T", "", 0),
            ("C", "T C", 1),
            ("C", "C", 0),
        ],
    )
    def test_rlla_asks_for_reasoning_then_the_blocks_of_the_gold(self, gold, completion, expected):
        self.check("rlla", gold, completion, expected)

    @pytest.mark.parametrize(
        ("gold", "completion", "expected"),
        [
            ("T C", "T C", 1),
            ("T C", "T C C C", 1),
            ("T C C", "T C", 1),
            ("T C", "C", 0),
            ("T C", "C T", 0),
            ("T C", "T B", 0),
            ("T C", "T C B", 0),
            ("T C", "T <tool_call>", 0),
            ("T C", "T prose C", 0),
            ("T C", "T", 0),
            ("C", "C", 1),
            ("C", "T C", 1),
            ("C", "<think> C", 0),
            ("prose C", "prose C", 1),
            ("prose C", "C prose", 0),
            ("prose C", "C", 0),
            ("prose", "prose", 1),
            ("prose", "C", 0),
            ("prose", "prose C", 0),
            ("prose", "prose B", 0),
            ("prose", "", 0),
            ("T prose", "prose", 0),
            ("T prose", "T prose", 1),
        ],
    )
    def test_hermes_asks_for_the_kinds_of_the_gold_in_its_order(self, gold, completion, expected):
        self.check("hermes", gold, completion, expected)

    def check(self, tool_call_syntax, gold, completion, expected):
        pieces = {
            "T": THINK,
            "C": write([CALL], tool_call_syntax, reasoning=""),
            "B": "<tool_call>\n{broken\n</tool_call>",
            "R": "<response> Sunny. </response>",
        }
        solution, text = (
            "\n".join(pieces.get(piece, piece) for piece in layout.split()) for layout in (gold, completion)
        )
        assert score(LayoutReward(tool_call_syntax), text, solution) == expected

    @pytest.mark.parametrize("tool_call_syntax", KEYS)
    def test_reasoning_may_quote_tags(self, tool_call_syntax):
        quoting = "<think> A <tool_call> with {} goes before <response>. </think>\n"
        solution = write([CALL], tool_call_syntax)
        completion = write([CALL], tool_call_syntax, reasoning=quoting)
        for gold in (solution, completion):
            assert score(LayoutReward(tool_call_syntax), completion, gold) == 1
            assert score(ToolCallReward(tool_call_syntax), completion, gold) == 3

    @pytest.mark.parametrize("tool_call_syntax", KEYS)
    def test_reasoning_may_be_opened_by_the_prompt(self, tool_call_syntax):
        completion = write([CALL], tool_call_syntax).removeprefix("<think>")
        assert score(LayoutReward(tool_call_syntax), completion, write([CALL], tool_call_syntax)) == 1


class TestCallScore:
    def test_parts_add_up_as_in_the_formula(self):
        gold = [CALL, TIME]
        calls = [ToolCall("get_weather", {"city": "Oslo", "day": 2})]
        # Names 1/2, parameter names 1/3, values 1, over 1 + (1 + 2) + (1 + 0).
        assert call_score(calls, gold) == pytest.approx((1 / 2 + 1 / 3 + 1) / 5)

    def test_each_gold_call_takes_the_best_unused_call_of_its_name(self):
        first, second = ToolCall("f", {"a": 1}), ToolCall("f", {"a": 2})
        assert call_score([second, first], [first, second]) == 1
        assert call_score([second, second], [first, second]) == pytest.approx((1 + 1 + 2) / 5)

    def test_a_match_is_used_once(self):
        call = ToolCall("f", {"a": 1})
        assert call_score([call], [call, call]) == pytest.approx((1 / 2 + 2) / 5)

    def test_parameters_of_another_tool_count_nothing(self):
        assert call_score([ToolCall("g", {"a": 1})], [ToolCall("f", {"a": 1})]) == 0

    def test_comparison_of_values_is_the_callers(self):
        calls, gold = [ToolCall("f", {"a": True})], [ToolCall("f", {"a": 1})]
        assert call_score(calls, gold) == pytest.approx(2 / 3)
        assert call_score(calls, gold, equal=lambda left, right: left == right) == 1

    @relaxed
    @given(st.lists(tool_calls, min_size=1, max_size=4))
    def test_identical_lists_score_one(self, calls):
        assert call_score(calls, copy.deepcopy(calls)) == 1

    @relaxed
    @given(st.lists(tool_calls, max_size=4), st.lists(tool_calls, min_size=1, max_size=4))
    def test_score_is_in_the_unit_interval(self, calls, gold):
        assert 0 <= call_score(calls, gold) <= 1

    @relaxed
    @given(st.lists(tool_calls, max_size=4), st.lists(tool_calls, min_size=1, max_size=4), st.data())
    def test_a_call_of_a_foreign_tool_never_raises_the_score(self, calls, gold, data):
        junk = ToolCall("foreign", data.draw(st.dictionaries(st.sampled_from("abcd"), json_values, max_size=3)))
        position = data.draw(st.integers(0, len(calls)))
        assert call_score([*calls[:position], junk, *calls[position:]], gold) <= call_score(calls, gold)


class TestJsonEqual:
    @pytest.mark.parametrize(
        ("left", "right", "expected"),
        [
            ("1", "1.0", True),
            ("1", "true", False),
            ("0", "false", False),
            ("true", "true", True),
            ("0", "null", False),
            ('"1"', "1", False),
            ('{"a": 1, "b": 2}', '{"b": 2.0, "a": 1}', True),
            ('{"a": 1}', '{"a": true}', False),
            ('{"a": 1}', '{"a": 1, "b": 2}', False),
            ("[1, 2]", "[2, 1]", False),
            ("[1]", "[1, 1]", False),
            ("[[1]]", "[[true]]", False),
            ("[]", "{}", False),
            ("[]", "false", False),
        ],
    )
    def test_compares_values_not_spellings(self, left, right, expected):
        assert json_equal(json.loads(left), json.loads(right)) is expected
        assert json_equal(json.loads(right), json.loads(left)) is expected

    @relaxed
    @given(json_values)
    def test_a_value_equals_its_copy(self, value):
        assert json_equal(value, json.loads(json.dumps(value)))


class TestToolCallReward:
    @pytest.mark.parametrize("tool_call_syntax", KEYS)
    @pytest.mark.parametrize(
        ("calls", "expected"),
        [
            ([CALL, TIME], 3),
            ([TIME, CALL], 3),
            ([CALL], -3 + 6 * (1 / 2 + 1 + 2) / 5),
            ([CALL, TIME, TIME], -3 + 6 * (2 / 3 + 3 + 1) / 5),
            ([ToolCall("get_rain", CALL.arguments)], -3),
        ],
    )
    def test_correctness_is_scaled_to_the_bounds(self, tool_call_syntax, calls, expected):
        solution = write([CALL, TIME], tool_call_syntax)
        reward = score(ToolCallReward(tool_call_syntax), write(calls, tool_call_syntax), solution)
        assert reward == pytest.approx(expected)

    @pytest.mark.parametrize("tool_call_syntax", KEYS)
    @pytest.mark.parametrize(
        "completion",
        [
            "",
            "Sunny.",
            THINK + "<response> Sunny. </response>",
            "<tool_call>",
            THINK + "<tool_call>\n</tool_call>",
            THINK + '<tool_call>\n{"name": "get_weather"}\n</tool_call>',
            THINK + '<tool_call>\n{"name": ["get_weather"], "parameters": {}, "arguments": {}}\n</tool_call>',
            THINK + '<tool_call>\n{"name": "get_weather", "parameters": [], "arguments": []}\n</tool_call>',
            THINK + "<tool_call>\n" + "[" * 100_000 + "\n</tool_call>",
            THINK + "<tool_call>\n" + "9" * 10_000 + "\n</tool_call>",
        ],
    )
    def test_what_is_no_call_earns_the_minimum(self, tool_call_syntax, completion):
        assert score(ToolCallReward(tool_call_syntax), completion, write([CALL], tool_call_syntax)) == -3

    def test_one_broken_call_voids_all(self):
        solution = write([CALL, TIME])
        assert score(TOOL_CALL_REWARD, solution.replace('"name": "get_time"', '"name": "get_time'), solution) == -3
        assert score(TOOL_CALL_REWARD, solution.replace("parameters", "arguments", 1), solution) == -3

    def test_quoted_call_in_reasoning_is_no_call(self):
        quoting = f"<think> {write([CALL], reasoning='')} </think>\n<response> Sunny. </response>"
        assert score(TOOL_CALL_REWARD, quoting, write([CALL])) == -3

    @pytest.mark.parametrize("completion", ["", THINK + "<response> No. </response>", write([CALL]), "<tool_call>{"])
    def test_gold_without_call_gives_zero(self, completion):
        assert score(TOOL_CALL_REWARD, completion, THINK + "<response> No tool fits. </response>") == 0

    def test_released_takes_true_for_one_and_the_others_do_not(self):
        completion, solution = write([ToolCall("f", {"a": True})]), write([ToolCall("f", {"a": 1})])
        kwargs = {"trainer_state": state(150, max_steps=150)}
        rewards = {name: score(ToolCallReward("rlla", name), completion, solution, **kwargs) for name in SCHEDULES}
        assert rewards == pytest.approx({"static": 1.0, "released": 3.0, "horizon": 1.0})

    def test_unreadable_solution_gives_no_reward_and_one_warning(self, caplog):
        bad = THINK + '<tool_call>\n{"name": "only_here"}\n</tool_call>'
        metrics = {}
        for _ in range(2):
            rewards = TOOL_CALL_REWARD([bad, write([CALL])], [bad, write([CALL])], log_metric=metrics.__setitem__)
            assert rewards == [None, 3.0]
        assert metrics["rest/reward/unreadable_solution"] == 0.5
        assert metrics["rest/reward/correctness"] == 1
        assert len(caplog.records) == 1
        assert "only_here" in caplog.text

    @relaxed
    @given(tool_calls, st.randoms(use_true_random=False), st.sampled_from(sorted(KEYS)))
    def test_order_of_keys_changes_nothing(self, call, random, tool_call_syntax):
        keys = list(call.arguments)
        random.shuffle(keys)
        shuffled = ToolCall(call.name, {key: call.arguments[key] for key in keys})
        completion, solution = write([shuffled], tool_call_syntax), write([call], tool_call_syntax)
        assert score(ToolCallReward(tool_call_syntax), completion, solution) == 3

    @relaxed
    @given(
        fragments,
        fragments | st.lists(tool_calls, min_size=1, max_size=3).map(write),
        st.sampled_from(sorted(KEYS)),
        st.sampled_from(SCHEDULES),
        st.integers(0, 400),
    )
    def test_any_text_stays_within_the_bounds(self, completion, solution, tool_call_syntax, schedule, step):
        bounds = reward_bounds(schedule, step, 200)
        kwargs = {"trainer_state": state(step, max_steps=200)}
        of_syntax = score(LayoutReward(tool_call_syntax, schedule), completion, solution, **kwargs)
        assert of_syntax in (bounds.layout_min, bounds.layout_max)
        of_calls = score(ToolCallReward(tool_call_syntax, schedule), completion, solution, **kwargs)
        assert of_calls is None or bounds.correctness_min <= of_calls <= bounds.correctness_max


class TestCallingConvention:
    @pytest.mark.parametrize("conversational", [False, True])
    def test_called_as_trl_calls(self, conversational):
        completions = [write([CALL]), write([TIME]), "Sunny.", "<tool_call>{"]
        if conversational:
            completions = [
                [{"role": "assistant", "content": completions[0]}],
                [{"role": "assistant", "content": [{"type": "text", "text": completions[1]}]}],
                [
                    {"role": "assistant", "content": write([CALL])},
                    {"role": "tool", "content": "21 degrees"},
                    {"role": "assistant", "content": completions[2]},
                ],
                [{"role": "assistant", "content": completions[3]}],
            ]
        metrics = {}
        kwargs = {
            "prompts": ["Weather in Oslo?"] * 4,
            "completions": completions,
            "solution": [write([CALL])] * 2 + [THINK + "<response> Sunny. </response>", write([CALL])],
            "source": ["a"] * 4,
            "trainer_state": state(10, max_steps=40),
            "log_extra": lambda column, values: None,
            "log_metric": metrics.__setitem__,
        }
        assert LayoutReward("rlla", "horizon")(**kwargs) == [1.75, 1.75, -1.5, -1.5]
        assert ToolCallReward("rlla", "horizon")(**kwargs) == [2.25, -2.25, 0.0, -2.25]
        assert metrics == {
            "rest/reward/layout": 0.5,
            "rest/reward/correctness": pytest.approx(1 / 3),
            # The third one's messages begin with a call, where the gold has none.
            "rest/reward/exact": 0.25 if conversational else 0.5,
            "rest/reward/exact_with_calls": pytest.approx(1 / 3),
            "rest/reward/exact_without_calls": 0.0 if conversational else 1.0,
            "rest/reward/unparseable": 0.25,
            "rest/reward/unreadable_solution": 0.0,
        }

    def test_correctness_is_not_logged_where_no_gold_has_a_call(self):
        metrics = {}
        TOOL_CALL_REWARD(["Sunny.", write([CALL]), "<tool_call>{"], ["Sunny."] * 3, log_metric=metrics.__setitem__)
        assert "rest/reward/correctness" not in metrics
        assert metrics["rest/reward/exact"] == pytest.approx(1 / 3)

    def test_exact_calls_are_told_from_text_that_calls_nothing(self):
        metrics = {}
        golds = [write([CALL]), "Sunny."] * 2
        TOOL_CALL_REWARD(["ajd kfj"] * 4, golds, log_metric=metrics.__setitem__)
        assert (metrics["rest/reward/exact_with_calls"], metrics["rest/reward/exact_without_calls"]) == (0, 1)
        metrics.clear()
        TOOL_CALL_REWARD(["Sunny."], ["Sunny."], log_metric=metrics.__setitem__)
        assert "rest/reward/exact_with_calls" not in metrics and metrics["rest/reward/exact_without_calls"] == 1

    @pytest.mark.parametrize("completion", [[], [{"role": "assistant", "content": None}]])
    def test_message_without_text_earns_the_minimum(self, completion):
        assert score(TOOL_CALL_REWARD, completion, write([CALL])) == -3
        assert score(LAYOUT_REWARD, completion, write([CALL])) == 0

    @pytest.mark.parametrize(
        ("factory", "name"), [(LayoutReward, "layout_reward"), (ToolCallReward, "tool_call_reward")]
    )
    def test_survives_pickling_and_keeps_its_name(self, factory, name):
        reward_func = pickle.loads(pickle.dumps(factory("hermes", "static")))
        assert reward_func.__name__ == name
        assert score(reward_func, "", write([CALL], "hermes")) < 1

    @pytest.mark.parametrize("factory", [LayoutReward, ToolCallReward])
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"tool_call_syntax": "xml"}, "'xml'.*hermes, .*rlla"),
            ({"schedule": "linear"}, "'linear'.*static, released, horizon"),
        ],
    )
    def test_unknown_setting_names_the_choices(self, factory, settings, message):
        with pytest.raises(ValueError, match=message):
            factory(**settings)

    @pytest.mark.parametrize("factory", [LayoutReward, ToolCallReward])
    @pytest.mark.parametrize("schedule", ["released", "horizon"])
    def test_schedule_without_trainer_state_names_the_cure(self, factory, schedule):
        with pytest.raises(ValueError, match=r'trainer_state.*"static"'):
            factory("rlla", schedule)([""], [""])

    def test_as_many_solutions_as_completions(self):
        with pytest.raises(ValueError):
            LAYOUT_REWARD(["", ""], [""])


class TestNativeMessages:
    """Messages of TRL's loop of tool calls: the calls are taken out of the text, and tools have answered."""

    SOLUTION = "<think>\nI look it up.\n</think>\n" + write([CALL], "hermes", reasoning="")
    CALLING = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I look it up.",
        "tool_calls": [{"type": "function", "function": {"name": CALL.name, "arguments": CALL.arguments}}],
    }
    RESULT = {"role": "tool", "name": CALL.name, "content": write([CALL], "hermes")}
    ANSWER = {"role": "assistant", "content": "Sunny."}

    @pytest.mark.parametrize("rest", [[], [RESULT], [RESULT, ANSWER], [RESULT, {"role": "assistant", "content": ""}]])
    def test_a_correct_call_earns_the_maximum(self, rest):
        completion = [self.CALLING, *rest]
        assert score(ToolCallReward("hermes"), completion, self.SOLUTION) == 3
        assert score(LayoutReward("hermes"), completion, self.SOLUTION) == 1

    def test_arguments_may_be_json_in_a_string(self):
        function = {"name": CALL.name, "arguments": json.dumps(CALL.arguments)}
        completion = [self.CALLING | {"tool_calls": [{"type": "function", "function": function}]}]
        assert score(ToolCallReward("hermes"), completion, self.SOLUTION) == 3

    def test_a_gold_call_in_the_result_of_a_tool_earns_nothing(self):
        other = {"type": "function", "function": {"name": "get_rain", "arguments": {}}}
        completion = [self.CALLING | {"tool_calls": [other]}, self.RESULT, self.ANSWER]
        assert score(ToolCallReward("hermes"), completion, self.SOLUTION) == -3

    @pytest.mark.parametrize("arguments", ["{broken", "[]", None, 3])
    def test_an_unreadable_call_earns_the_minimum(self, arguments):
        bad = {"type": "function", "function": {"name": CALL.name, "arguments": arguments}}
        completion = [self.CALLING | {"tool_calls": [*self.CALLING["tool_calls"], bad]}]
        metrics = {}
        assert score(ToolCallReward("hermes"), completion, self.SOLUTION, log_metric=metrics.__setitem__) == -3
        assert score(LayoutReward("hermes"), completion, self.SOLUTION) == 0
        assert metrics["rest/reward/unparseable"] == 1

    def test_calls_of_all_turns_count(self):
        both = self.SOLUTION + "\n" + write([TIME], "hermes", reasoning="")
        time = {"type": "function", "function": {"name": TIME.name, "arguments": TIME.arguments}}
        completion = [self.CALLING, self.RESULT, self.CALLING | {"tool_calls": [time]}, self.RESULT, self.ANSWER]
        assert score(ToolCallReward("hermes"), completion, both) == 3
        assert score(LayoutReward("hermes"), completion, both) == 1
        again = [self.CALLING, self.RESULT, *completion]
        assert score(ToolCallReward("hermes"), again, both) < 3


class TestTurnGolds:
    """A solution that is a list has a gold for every assistant turn."""

    GOLDS = [write([CALL], "hermes"), write([TIME], "hermes"), "Sunny, at noon."]
    HALF = write([ToolCall("get_weather", CALL.arguments | {"days": 3})], "hermes")
    REWARD = ToolCallReward("hermes")

    @staticmethod
    def dialogue(*turns):
        result = {"role": "tool", "name": "x", "content": write([CALL], "hermes")}
        return [m for turn in turns for m in ({"role": "assistant", "content": turn}, result)]

    def test_earn_the_maximum(self):
        metrics = {}
        completion = self.dialogue(*self.GOLDS)
        assert score(self.REWARD, completion, self.GOLDS, log_metric=metrics.__setitem__) == 3
        assert metrics["rest/reward/exact"] == 1 and metrics["rest/reward/correctness"] == 1
        assert score(LayoutReward("hermes"), completion, self.GOLDS) == 1

    @pytest.mark.parametrize(
        ("turns", "share"),
        [
            ((1, 0, 2), 0),  # in the wrong order
            ((0, 2), 1 / 2),
            ((0,), 1 / 2),
            ((0, 1, 1), 2 / 3),  # a call where none should be
            ((0, 1, 2, 1), 2 / 3),
            ((), 0),
            ((2, 2, 2), 0),
            ((0, 1, 0, 1), 2 / 4),
        ],
    )
    def test_are_compared_with_the_turns_of_their_number(self, turns, share):
        completion = self.dialogue(*(self.GOLDS[turn] for turn in turns))
        metrics = {}
        found = score(self.REWARD, completion, self.GOLDS, log_metric=metrics.__setitem__)
        assert found == pytest.approx(-3 + 6 * share) and metrics["rest/reward/exact"] == 0
        assert score(LayoutReward("hermes"), completion, self.GOLDS) == (len(turns) == 3 and turns == (1, 0, 2))

    def test_give_each_turn_the_score_that_it_has_alone(self):
        alone = score(self.REWARD, self.HALF, self.GOLDS[0])
        both = score(self.REWARD, self.dialogue(self.HALF, *self.GOLDS[1:]), self.GOLDS)
        assert both == pytest.approx((alone + 3) / 2)
        assert score(self.REWARD, self.HALF, [self.GOLDS[0]]) == alone

    def test_with_an_unreadable_call_in_a_turn_give_none_for_it(self):
        broken = self.GOLDS[0].replace("}}", "}")
        found = score(self.REWARD, self.dialogue(broken, *self.GOLDS[1:]), self.GOLDS)
        assert found == pytest.approx(-3 + 6 * 1 / 2)

    def test_that_cannot_be_read_give_no_reward(self):
        assert score(self.REWARD, "x", [self.GOLDS[0], "<tool_call>{"]) is None

    def test_without_any_call_give_zero(self):
        assert score(self.REWARD, self.dialogue("Sunny.", "Noon."), ["A.", "B."]) == 0

    def test_have_no_parts_that_are_decided_early(self):
        reward = self.REWARD.bind("hermes", lambda ids: [[]] * len(ids), "static", 1)
        assert reward.segments([[1]], [self.GOLDS]) == [[]]


class TestBinding:
    def test_reads_by_the_trainer_and_leaves_the_original_alone(self):
        reward = ToolCallReward()
        gold = write([CALL], "hermes")
        turns = {(1, 2): [Turn(get_syntax("hermes").parse(gold), gold, 0, np.zeros(2))], (3,): []}
        bound = reward.bind("hermes", lambda ids: [turns[tuple(i)] for i in ids], "horizon", 2)
        assert bound(["", ""], [gold, gold], completion_ids=[[1, 2], [3]], trainer_state=state(2, 4)) == [2.5, -2.5]
        assert reward.tool_call_syntax is None and reward.schedule is None
        assert bound.__name__ == "tool_call_reward"

    def test_keeps_a_schedule_of_its_own(self):
        assert ToolCallReward(schedule="static").bind("hermes", list, "horizon", 1).schedule == "static"

    def test_takes_no_completion_that_was_cut_off_for_exact(self):
        text, call = "Sunny.", write([CALL], "hermes")
        read = {(1, 2): call, (1, 9): call, (3, 4): text, (3, 9): text}
        turns = {ids: [Turn(get_syntax("hermes").parse(read[ids]), read[ids], 0, np.zeros(2))] for ids in read}
        rows = {"completion_ids": [list(ids) for ids in read], "solution": [call, call, text, text]}
        for end_ids, exact in (((9, 8), 0.5), ((), 1.0)):
            metrics = {}
            reward = ToolCallReward().bind(
                "hermes", lambda ids: [turns[tuple(i)] for i in ids], "static", 1, None, end_ids
            )
            assert reward([""] * 4, log_metric=metrics.__setitem__, **rows) == [3, 3, 0, 0]
            names = ("exact", "exact_with_calls", "exact_without_calls")
            assert [metrics[f"rest/reward/{name}"] for name in names] == [exact] * 3

    def test_takes_no_dialogue_whose_last_turn_was_cut_off_for_exact(self):
        call = write([CALL], "hermes")
        turns = [Turn(get_syntax("hermes").parse(text), text, 0, np.zeros(1)) for text in (call, "Sunny.")]
        reward = ToolCallReward().bind("hermes", lambda ids: [list(turns) for _ in ids], "static", 1, None, (9,))
        for solution in (call, [call, "Sunny."]):
            for end, exact in ((9, 1.0), (5, 0.0)):
                metrics = {}
                reward([""], [solution], completion_ids=[[1, end]], log_metric=metrics.__setitem__)
                assert metrics["rest/reward/exact"] == exact

    def test_is_asked_for_by_name_where_a_trainer_calls(self):
        with pytest.raises(ValueError, match=r"ResTGRPOTrainer.*bind"):
            LayoutReward("hermes")([""], [""], completion_ids=[[1]])

    def test_or_a_syntax_is_asked_for(self):
        with pytest.raises(ValueError, match=r"does not know the syntax.*LayoutReward\(\"hermes\"\)"):
            LayoutReward()([""], [""])

    def test_missing_solutions_are_named(self):
        with pytest.raises(ValueError, match="column `solution`"):
            ToolCallReward("hermes")([""])


def my_reward(completions, **kwargs):
    return [0.0] * len(completions)


class MyReward:
    __name__ = "mine"

    def __call__(self, completions, **kwargs):
        return [1.0] * len(completions)


class TestNames:
    def test_give_the_rewards_of_the_paper_and_dotted_paths(self):
        assert isinstance(get_reward_func("layout_reward"), LayoutReward)
        assert isinstance(get_reward_func("tool_call_reward"), ToolCallReward)
        assert get_reward_func(f"{__name__}.my_reward") is my_reward
        assert get_reward_func(f"{__name__}.MyReward")([""]) == [1.0]
        assert get_reward_func("trl.rewards.think_format_reward").__name__ == "think_format_reward"

    @pytest.mark.parametrize("name", ["nothing", "no.such.module", "json.no_such", "math.pi"])
    def test_that_lead_nowhere_are_refused(self, name):
        with pytest.raises(ValueError, match=rf"reward_funcs: '{name}'"):
            get_reward_func(name)


class TestCheckSolutions:
    GOLDS = [write([CALL], "hermes"), write([TIME], "hermes"), "No tool fits."]

    def warnings(self, caplog, golds, syntax, given=()):
        check_solutions(Dataset.from_dict({"prompt": golds, "solution": golds}), syntax, given)
        return [record.getMessage() for record in caplog.records]

    def test_is_silent_where_all_is_well(self, caplog):
        assert self.warnings(caplog, self.GOLDS, "hermes", ["hermes"]) == []

    def test_counts_golds_without_a_call_and_names_the_better_syntax(self, caplog):
        (warning,) = self.warnings(caplog, self.GOLDS, "mistral")
        assert "0 of 3 gold completions hold a call in the syntax 'mistral'" in warning
        assert "'hermes'" in warning and "2 do: set tool_call_syntax" in warning

    def test_warns_of_a_reward_with_another_syntax_than_the_policy(self, caplog):
        (warning,) = self.warnings(caplog, self.GOLDS, "hermes", ["rlla"])
        assert "given the syntax 'rlla', but the policy writes 'hermes'" in warning and "2 of 3" in warning

    def test_counts_unreadable_golds(self, caplog):
        (warning,) = self.warnings(caplog, [*self.GOLDS, "<tool_call>{broken"], "hermes")
        assert "2 of 4" in warning and "1 hold something else" in warning

    def test_counts_golds_of_another_syntax_among_those_of_the_policy(self, caplog):
        mixed = [*self.GOLDS, '[TOOL_CALLS]f[ARGS]{"a": 1}', "[TOOL_CALLS]g[ARGS]{}"]
        (warning,) = self.warnings(caplog, mixed, "hermes")
        assert "2 of 5 gold completions hold a call in the syntax 'hermes'" in warning
        assert "2 of the others one in the syntax 'mistral'" in warning

    def test_golds_without_any_call_train_the_layout_alone(self, caplog):
        (warning,) = self.warnings(caplog, ["No tool fits."], "hermes")
        assert "only the layout" in warning

    def test_refuses_data_without_solutions(self):
        with pytest.raises(ValueError, match=r"column `solution`.*\['prompt'\]"):
            check_solutions(Dataset.from_dict({"prompt": ["a"]}), "hermes", [])

    def test_refuses_solutions_that_are_no_text(self):
        with pytest.raises(ValueError, match=r"row 1 .* NoneType as `solution`"):
            check_solutions(Dataset.from_dict({"solution": ["a", None]}), "hermes", [])
        with pytest.raises(ValueError, match=r"row 0 .* list as `solution`.* one for every assistant turn"):
            check_solutions(Dataset.from_dict({"solution": [[{"name": "f"}]]}), "hermes", [])

    def test_takes_a_list_of_golds(self, caplog):
        check_solutions(Dataset.from_dict({"solution": [self.GOLDS, self.GOLDS[:1]]}), "hermes", [])
        assert not caplog.records
        check_solutions(Dataset.from_dict({"solution": [self.GOLDS, self.GOLDS[:1]]}), "mistral", [])
        assert "0 of 4 gold completions hold a call" in caplog.text
