import json

import pytest

from rest_trl.data.masking import check_masks, mask_step
from rest_trl.data.messages import Step, decompose


def tool(name, *parameters):
    schema = {"type": "object", "properties": {p: {"description": f"the {p}"} for p in parameters}}
    function = {"name": name, "description": f"does {name}", "parameters": {**schema, "required": list(parameters)}}
    return {"type": "function", "function": function}


TOOLS = [tool("depth", "port", "hour"), tool("ferries", "port"), tool("tides")]


def call(name, **arguments):
    return {"type": "function", "id": "7", "function": {"name": name, "arguments": arguments}}


def steps():
    messages = [
        {"role": "user", "content": "What is the depth?"},
        {"role": "assistant", "content": "", "tool_calls": [call("depth", port="Brest", hour=3)]},
        {"role": "tool", "name": "depth", "content": '{"name": "depth", "port": 9}'},
        {"role": "assistant", "content": "", "tool_calls": [call("ferries", port="Brest"), call("unknown", port=1)]},
    ]
    return decompose(messages, TOOLS)


def declared(step):
    """Per description, the name and the parameters by their descriptions."""
    functions = [t["function"] for t in step.tools]
    return {
        f["description"]: (f["name"], {v["description"]: k for k, v in f["parameters"]["properties"].items()})
        for f in functions
    }


class TestMaskStep:
    def test_names_are_random_and_descriptions_still_tell_what_a_call_calls(self):
        for number, step in enumerate(steps()):
            masked = mask_step(step, ("functions", "parameters"), "0")
            names = declared(masked)
            assert not {name for name, _ in names.values()} & {"depth", "ferries", "tides"}
            made = masked.turn["tool_calls"][0]["function"]
            name, parameters = names["does depth" if number == 0 else "does ferries"]
            assert made["name"] == name
            assert made["arguments"][parameters["the port"]] == "Brest"
            assert len(made["arguments"]) == (2 if number == 0 else 1)

    def test_all_steps_of_a_dialogue_have_the_same_names(self):
        first, second = (mask_step(step, ("functions", "parameters"), "seed") for step in steps())
        assert first.tools == second.tools
        assert second.history[1] == first.turn

    def test_results_name_the_tool_as_it_is_now_called(self):
        masked = mask_step(steps()[1], ("functions",), "0")
        name, _ = declared(masked)["does depth"]
        assert masked.history[2]["name"] == name
        assert json.loads(masked.history[2]["content"]) == {"name": name, "port": 9}

    def test_words_and_calls_of_other_tools_stay(self):
        masked = mask_step(steps()[1], ("functions", "parameters"), "0")
        assert masked.history[0]["content"] == "What is the depth?"
        assert masked.turn["tool_calls"][1] == call("unknown", port=1)

    @pytest.mark.parametrize("mask", ["functions", "parameters"])
    def test_each_kind_of_name_is_masked_by_itself(self, mask):
        masked = mask_step(steps()[0], (mask,), "0").turn["tool_calls"][0]["function"]
        assert (masked["name"] == "depth") == (mask == "parameters")
        assert (set(masked["arguments"]) == {"port", "hour"}) == (mask == "functions")

    def test_required_parameters_are_those_that_were(self):
        masked = mask_step(steps()[0], ("parameters",), "0")
        for t in masked.tools:
            parameters = t["function"]["parameters"]
            assert parameters["required"] == list(parameters["properties"])

    def test_names_can_be_written_in_every_syntax_and_differ(self):
        for seed in range(200):
            masked = mask_step(steps()[0], ("functions", "parameters"), str(seed))
            functions = [t["function"] for t in masked.tools]
            names = [f["name"] for f in functions]
            assert len(set(names)) == 3 and all(name.isidentifier() and 5 <= len(name) <= 15 for name in names)
            for parameters in (list(f["parameters"]["properties"]) for f in functions):
                assert all(name.isidentifier() and 4 <= len(name) <= 10 for name in parameters)

    def test_names_follow_from_the_seed(self):
        (step, _) = steps()
        assert mask_step(step, ("functions",), "a") == mask_step(step, ("functions",), "a")
        assert mask_step(step, ("functions",), "a") != mask_step(step, ("functions",), "b")

    def test_the_step_that_is_given_does_not_change(self):
        before, after = steps()[1], steps()[1]
        mask_step(after, ("functions", "parameters"), "0")
        assert before == after

    def test_steps_of_text_and_without_tools_are_returned_as_they_are(self):
        for step in (Step("a", "b", TOOLS), Step([{"role": "user", "content": "?"}], "b", TOOLS), steps()[0]):
            bare = step if isinstance(step.turn, str) else Step(step.history, step.turn)
            assert mask_step(bare, ("functions",), "0") is bare

    def test_another_mask_is_an_error(self):
        with pytest.raises(ValueError, match="mask_tools has 'names': choose from functions, parameters"):
            check_masks(["functions", "names"])
