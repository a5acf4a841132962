import json
import logging

import pytest
from datasets import Dataset
from hypothesis import given
from test_native_tools import BROKEN, CALL, GOLD, get_weather, make_trainer, roll_out
from test_rule_rewards import fragments, json_values, relaxed

from rest_trl.rewards import ToolSchemaReward, get_reward_func
from rest_trl.rewards.binding import check_tools
from rest_trl.rewards.tool_schemas import FAULTS, ToolSchemas, read_tools
from rest_trl.tool_calls import ToolCall


PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Paris", "7"]},
        "days": {"type": "integer", "minimum": 1},
        "units": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city", "days"],
}
FORECAST = {"type": "function", "function": {"name": "forecast", "parameters": PARAMETERS}}
NOW = {"name": "now", "parameters": {"type": "object", "properties": {}}}
TOOLS = [FORECAST, NOW]
RIGHT = {"city": "Oslo", "days": 2}
REWARD = ToolSchemaReward("hermes", TOOLS)


def write(name, arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def judged(completion, reward=REWARD, **columns):
    """The penalties of the turns of a completion, and the kinds of fault in it."""
    metrics = {}
    (turns,) = reward([completion], log_metric=metrics.__setitem__, **columns)
    faults = {name.removeprefix("rest/reward/") for name, value in metrics.items() if value}
    assert metrics.keys() == {f"rest/reward/{name}" for name in ("valid", *FAULTS)}
    return turns, faults - {"valid"}


class TestCalls:
    @pytest.mark.parametrize(
        "arguments", [RIGHT, RIGHT | {"units": ["mm", "C"]}, {"days": 1.0, "city": "Paris"}, RIGHT | {"units": []}]
    )
    def test_that_fit_cost_nothing(self, arguments):
        assert judged(write("forecast", arguments)) == ([0.0], set())
        assert judged(write("forecast", arguments) + write("now", {})) == ([0.0], set())

    @pytest.mark.parametrize(
        ("name", "arguments", "share", "fault"),
        [
            ("forecasts", RIGHT, 1, "unknown_tool"),
            ("forecast", {"city": "Oslo"}, 1 / 2, "missing_parameter"),
            ("forecast", {}, 1, "missing_parameter"),
            ("forecast", RIGHT | {"day": 3}, 1 / 3, "unknown_parameter"),
            ("now", {"zone": "UTC"}, 1, "unknown_parameter"),
            ("forecast", RIGHT | {"days": "2"}, 1 / 2, "wrong_value"),
            ("forecast", RIGHT | {"days": True}, 1 / 2, "wrong_value"),
            ("forecast", RIGHT | {"days": None}, 1 / 2, "wrong_value"),
            ("forecast", RIGHT | {"days": 0}, 1 / 2, "wrong_value"),
            ("forecast", RIGHT | {"city": "Rome"}, 1 / 2, "wrong_value"),
            ("forecast", RIGHT | {"units": ["mm", 3, 4]}, 1 / 3, "wrong_value"),
        ],
    )
    def test_cost_the_share_of_their_faults(self, name, arguments, share, fault):
        assert judged(write(name, arguments)) == ([pytest.approx(-share)], {fault})

    def test_with_several_faults_cost_more_than_with_one(self):
        arguments = {"city": "Rome", "day": 2}
        faults = {"wrong_value", "missing_parameter", "unknown_parameter"}
        assert judged(write("forecast", arguments)) == ([-1.0], faults)
        costs = [judged(write("forecast", a))[0][0] for a in (RIGHT, RIGHT | {"city": "Rome"}, arguments)]
        assert costs == sorted(costs, reverse=True)

    def test_without_a_fault_do_not_make_up_for_one_with(self):
        bad = write("forecast", {"city": "Oslo"})
        assert judged(bad + write("now", {}) * 9) == judged(bad)

    @pytest.mark.parametrize("text", ['<tool_call>{"name": "now", "arg', "<tool_call>", "<tool_call>[]</tool_call>"])
    def test_that_cannot_be_read_cost_most_and_void_the_others(self, text):
        assert judged(write("now", {}) + text) == ([-1.0], {"unparseable"})

    @pytest.mark.parametrize("text", ["", "It is sunny.", "<think>A <tool_call>?</think> No."])
    def test_that_are_not_made_cost_nothing(self, text):
        assert judged(text) == ([0.0], set())

    @relaxed
    @given(fragments)
    def test_of_any_text_stay_in_the_range(self, text):
        (turn,), faults = judged(text)
        assert -1 <= turn <= 0 and (turn < 0) == bool(faults)

    @relaxed
    @given(json_values)
    def test_with_any_value_stay_in_the_range(self, value):
        judgement = ToolSchemas(TOOLS).judge(ToolCall("forecast", {"city": value, "days": value}))
        assert 0 <= judgement.wrong <= 1

    def test_nested_too_deeply_are_wrong(self):
        value = []
        for _ in range(100_000):
            value = [value]
        parameters = {"properties": {"x": {"type": "array", "items": {"$ref": "#/properties/x"}}}}
        judgement = ToolSchemas([{"name": "f", "parameters": parameters}]).judge(ToolCall("f", {"x": value}))
        assert judgement.wrong == 1 and judgement.faults == {"wrong_value"}

    @pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400])
    def test_that_cannot_be_divided_are_wrong(self, value):
        tools = [{"name": "f", "parameters": {"properties": {"x": {"type": "number", "multipleOf": 0.1}}}}]
        judgement = ToolSchemas(tools).judge(ToolCall("f", {"x": value}))
        assert judgement.wrong == 1 and judgement.faults == {"wrong_value"}


class TestUntypedSyntaxes:
    TEXT = "<tool_call>\n<function=forecast>\n<parameter=city>\n{}\n</parameter>\n<parameter=days>\n{}\n</parameter>\n"

    @pytest.mark.parametrize(("city", "days", "cost"), [(7, 2, 0), ("Oslo", 2, 0), ("Oslo", "two", 0.5), (8, 2, 0.5)])
    def test_take_a_number_for_the_text_that_the_schema_asks_for(self, city, days, cost):
        text = self.TEXT.format(city, days) + "</function>\n</tool_call>"
        assert judged(text, ToolSchemaReward("qwen3_coder", TOOLS))[0] == [-cost]


class TestTurns:
    @staticmethod
    def message(*calls):
        functions = [{"name": name, "arguments": arguments} for name, arguments in calls]
        return {"role": "assistant", "content": "", "tool_calls": [{"function": function} for function in functions]}

    def test_of_native_messages_are_judged_one_by_one(self):
        result = {"role": "tool", "name": "now", "content": write("no_such_tool", {})}
        bad = self.message(("now", {}), ("forecast", {"city": "Oslo"}))
        completion = [self.message(("forecast", RIGHT)), result, bad, result, {"role": "assistant", "content": "Sun."}]
        assert judged(completion) == ([0.0, -0.5, 0.0], {"missing_parameter"})

    @pytest.mark.parametrize("arguments", ["{broken", [], None, 3])
    def test_with_a_call_that_cannot_be_read_cost_most(self, arguments):
        assert judged([self.message(("now", arguments))]) == ([-1.0], {"unparseable"})

    def test_with_the_text_of_a_call_that_trl_could_not_read_cost_most(self):
        assert judged([{"role": "assistant", "content": BROKEN}]) == ([-1.0], {"unparseable"})

    def test_without_any_are_none(self):
        assert REWARD([[], "x"]) == [[], [0.0]]


class TestSchemas:
    def test_are_taken_from_functions(self):
        def book(city: str, days: int = 1, note: str | None = None) -> str:
            """
            Books.

            Args:
                city: Where.
                days: How long.
                note: What else.
            """
            return ""

        tools = ToolSchemas([book])
        for arguments, wrong in [
            ({"city": "Oslo"}, 0),
            ({"city": "Oslo", "note": None}, 0),
            ({"city": "Oslo", "note": 3}, 1 / 2),
            ({"city": "Oslo", "days": None}, 1 / 2),
            ({"days": 2}, 1 / 2),
            ({"city": "Oslo", "self": 1}, 1 / 2),
        ]:
            assert tools.judge(ToolCall("book", arguments)).wrong == wrong

    @pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS), [json.dumps(FORECAST), json.dumps(NOW)]])
    def test_are_taken_from_columns(self, tools):
        reward = ToolSchemaReward("hermes")
        assert judged(write("forecast", RIGHT), reward, tools=[tools]) == ([0.0], set())
        assert judged(write("forecast", {}), reward, tools=[tools])[0] == [-1.0]

    @pytest.mark.parametrize(
        "key", ["parameters", "inputSchema", "input_schema", "parametersJsonSchema", "parameters_json_schema"]
    )
    @pytest.mark.parametrize("nested", [True, False])
    def test_may_stand_under_any_usual_key(self, key, nested):
        tool = {"name": "forecast", key: PARAMETERS}
        tools = [{"type": "function", "function": tool} if nested else tool]
        reward, of_rows = ToolSchemaReward("hermes", tools), ToolSchemaReward("hermes")
        for arguments, found in ((RIGHT, ([0.0], set())), ({"city": "Oslo"}, ([-0.5], {"missing_parameter"}))):
            assert judged(write("forecast", arguments), reward) == found
            assert judged(write("forecast", arguments), of_rows, tools=[json.dumps(tools)]) == found

    def test_under_another_key_are_refused_by_its_name(self):
        with pytest.raises(ValueError, match="schema"):
            ToolSchemaReward("hermes", [{"name": "forecast", "schema": PARAMETERS}])

    def test_survive_what_arrow_pads(self):
        rows = Dataset.from_dict({"tools": [TOOLS, [NOW | {"parameters": {"properties": {"x": {"type": "null"}}}}]]})
        tools = read_tools(rows[0]["tools"])
        assert tools.judge(ToolCall("forecast", RIGHT)).wrong == 0 and not tools.unclear
        assert tools.judge(ToolCall("now", {"x": 1})).faults == {"unknown_parameter"}

    @pytest.mark.parametrize("additional", [True, {"type": "integer"}])
    def test_may_allow_other_parameters(self, additional):
        tools = ToolSchemas([{"name": "f", "parameters": {"properties": {}, "additionalProperties": additional}}])
        assert tools.judge(ToolCall("f", {"a": 1})).wrong == 0
        assert tools.judge(ToolCall("f", {"a": "x"})).wrong == (additional is not True)

    def test_may_bring_in_parameters_by_other_words(self):
        parameters = {"$defs": {"a": {"properties": {"a": {"type": "integer"}}}}, "allOf": [{"$ref": "#/$defs/a"}]}
        tools = ToolSchemas([{"name": "f", "parameters": {"properties": {}, **parameters}}])
        assert tools.judge(ToolCall("f", {"a": 1})).wrong == 0
        assert tools.judge(ToolCall("f", {"a": "x"})).faults == {"wrong_value"}

    def test_may_name_parameters_by_patterns(self):
        parameters = {
            "patternProperties": {"^x": {"type": "integer"}},
            "properties": {},
            "additionalProperties": False,
        }
        tools = ToolSchemas([{"name": "f", "parameters": parameters}])
        assert tools.judge(ToolCall("f", {"x1": 1})).wrong == 0
        assert tools.judge(ToolCall("f", {"y": 1})).faults == {"unknown_parameter"}
        assert tools.judge(ToolCall("f", {"x1": "a"})).faults == {"wrong_value"}

    def test_may_demand_something_of_the_call_as_a_whole(self):
        parameters = {"properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}}
        tools = ToolSchemas([{"name": "f", "parameters": parameters}])
        assert tools.judge(ToolCall("f", {"a": 1, "b": 1})).wrong == 0
        assert tools.judge(ToolCall("f", {"a": 1})) == (1.0, {"wrong_value"})

    @pytest.mark.parametrize(
        "unclear",
        [{"type": "List[int]"}, {"$ref": "#/nowhere"}, {"$ref": "https://example.com/x"}, {"required": True}],
    )
    def test_that_are_none_leave_only_their_values_unjudged(self, unclear):
        parameters = {"properties": {"a": unclear, "b": {"type": "integer"}}, "required": ["a"]}
        tools = ToolSchemas([{"name": "f", "parameters": parameters}])
        assert tools.unclear == ["f"]
        assert tools.judge(ToolCall("f", {"a": "anything", "b": 1})).wrong == 0
        assert tools.judge(ToolCall("f", {"b": "1", "c": 1})).wrong == 1


class TestRewardInATrainer:
    TYPO = CALL.replace("city", "town")
    SCRIPT = ([GOLD, "Sunny."], [GOLD, TYPO, "Sunny."], [BROKEN], [CALL.replace("get_weather", "get_rain"), "No."])

    def rewards(self, trainer):
        roll_out(trainer, len(self.SCRIPT))
        return list(trainer._logs["rewards"]["tool_schema_reward"])

    def test_judges_the_turns_by_the_tools_of_the_trainer(self, tmp_path):
        trainer = make_trainer(tmp_path, self.SCRIPT, reward_funcs=[get_reward_func("tool_schema_reward")])
        assert self.rewards(trainer) == [0.0, -1.0, -1.0, -1.0]

    def test_credits_the_turn_with_the_fault(self, tmp_path):
        config = {"credit": "turn", "scale_rewards": "none", "coefficients": "uniform"}
        trainer = make_trainer(tmp_path, self.SCRIPT, config, reward_funcs=[ToolSchemaReward()])
        output = roll_out(trainer, 4)
        ids = output["completion_ids"][1][output["completion_mask"][1].bool()].tolist()
        (turns,) = trainer.reader.turns([ids])
        first, second, third = (output["advantages"][1, turn.column].item() for turn in turns)
        # Sums 0, -1, -1 and -1. Two others reach the second turn, of which nothing more is charged; the mean of all
        # others counts twice.
        assert first == pytest.approx(-1 - (0 - 1 - 1) / 3)
        assert second == pytest.approx(-1 - (2 * -2 / 3 + 0 + 0) / 4)
        assert third == pytest.approx(first)  # alone in its third turn: the advantage of the whole completion

    def test_judges_by_the_methods_of_the_environment(self, tmp_path):
        class Weather:
            def reset(self, **kwargs):
                pass

            def get_weather(self, city: str, days: int) -> str:
                """
                Weather of a city.

                Args:
                    city: The city.
                    days: How many days.
                """
                return "sunny"

        for factory in (Weather, {"weather": Weather}):
            trainer = make_trainer(
                tmp_path, self.SCRIPT, tools=None, environment_factory=factory, reward_funcs=[ToolSchemaReward()]
            )
            if isinstance(factory, dict):
                trainer.train_dataset = trainer.train_dataset.add_column("environment", ["weather"] * 4)
            assert self.rewards(trainer) == [-0.5, -1.5, -1.0, -1.0]

    def test_judges_by_the_column_where_the_trainer_has_no_tools(self, tmp_path):
        rows = {"prompt": ["Hi"] * 4, "tools": [TOOLS] * 4}
        script = ([write("forecast", RIGHT)], [write("forecast", {})], [CALL], ["No."])
        trainer = make_trainer(
            tmp_path,
            script,
            tools=None,
            train_dataset=Dataset.from_dict(rows),
            reward_funcs=[ToolSchemaReward()],
        )
        assert self.rewards(trainer) == [0.0, -1.0, -1.0, 0.0]

    def test_is_refused_without_tools(self, tmp_path):
        with pytest.raises(ValueError, match=r"tool_schema_reward judges calls.* there are none: give the trainer"):
            make_trainer(tmp_path, self.SCRIPT, tools=None, reward_funcs=[ToolSchemaReward()])
        with pytest.raises(ValueError, match="there are none"):
            ToolSchemaReward("hermes")([""])

    def test_may_have_tools_of_its_own(self, tmp_path):
        reward = ToolSchemaReward(tools=[get_weather])
        trainer = make_trainer(tmp_path, self.SCRIPT[:1] + self.SCRIPT[2:3], tools=None, reward_funcs=[reward])
        trainer._pending = [turns[:1] for turns in trainer._pending]
        roll_out(trainer, 2)
        assert list(trainer._logs["rewards"]["tool_schema_reward"]) == [0.0, -1.0]


class TestCheckTools:
    def test_refuses_rows_that_are_no_schemas(self):
        with pytest.raises(ValueError, match=r"row 1 of the data set: .*not a JSON schema with a name"):
            check_tools(Dataset.from_dict({"tools": [json.dumps(TOOLS), '[{"x": 1}]']}), "r")

    def test_refuses_rows_without_any(self):
        with pytest.raises(ValueError, match="there are none"):
            check_tools(Dataset.from_dict({"tools": ["[]", None]}), "r")

    def test_warns_of_what_is_not_judged(self, caplog):
        unclear = [{"name": "f", "parameters": {"a": {"type": "List[int]"}}}]
        with caplog.at_level(logging.WARNING):
            check_tools(Dataset.from_dict({"tools": [json.dumps(TOOLS), json.dumps(unclear)]}), "r")
        assert "1 of 3 tools" in caplog.text and "'f'" in caplog.text

    def test_is_silent_where_all_is_well(self, caplog):
        check_tools(Dataset.from_dict({"tools": [TOOLS]}), "r")
        assert not caplog.records
