"""BFCL's questions as training data, from the official package, and by its official checker."""

import json

import pytest

from rest_trl.data import load_rest_dataset
from rest_trl.data.bfcl import steps_of_bfcl
from rest_trl.lab.doctor.model_and_data import dataset_finding, is_hub_id
from rest_trl.lab.evaluation.bfcl.process import OfficialBFCL
from rest_trl.lab.packaged import cache_dir
from rest_trl.lab.packaged.bfcl_single import MAX_SCHEMA, UNANSWERABLE, bfcl_rows, is_held_out, is_trained_on_bfcl
from rest_trl.rewards import LayoutReward, ToolCallReward
from rest_trl.runs.arguments import is_hub_id as is_hub_id_of_card
from rest_trl.tool_calls import ToolCall


@pytest.fixture(scope="module")
def rows():
    if not (cache_dir() / "bfcl_v4").is_dir():
        pytest.skip("bfcl-eval is not installed: make bfcl")
    return {split: bfcl_rows(split) for split in ("train", "test")}


@pytest.fixture(scope="module")
def datasets(rows, tokenizer):
    return {split: load_rest_dataset("bfcl/single", tokenizer, split=split, strict=True) for split in rows}


def text(calls):
    return "\n".join(
        "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"
        for name, arguments in calls
    )


def gold(step):
    return [(call["function"]["name"], call["function"]["arguments"]) for call in step.turn["tool_calls"]]


def changed(calls, index, parameter, value):
    """The calls with another value; `""` leaves the parameter out."""
    name, arguments = calls[index]
    arguments = {key: item for key, item in arguments.items() if key != parameter}
    return [*calls[:index], (name, arguments if value == "" else arguments | {parameter: value}), *calls[index + 1 :]]


def neighbours(step, right):
    """Answers that differ from the gold in one value: the alternatives, or a value that is none of them."""
    calls = gold(step)
    for index, allowed in enumerate(step.alternatives):
        for parameter, values in allowed.items():
            for value in values if right else [{"no": "such value"}]:
                yield changed(calls, index, parameter, value)


class TestRows:
    def test_are_as_many_as_the_documentation_says(self, rows):
        assert {split: len(of_split) for split, of_split in rows.items()} == {"train": 1081, "test": 246}

    def test_of_the_configuration_have_one_call_and_the_same_sides(self, rows):
        for split, of_split in rows.items():
            one_call = bfcl_rows(split, "one_call")
            assert one_call == [row for row in of_split if len(row["ground_truth"]) == 1]
            assert len(one_call) == {"train": 773, "test": 163}[split]

    def test_have_tools_that_the_other_split_lacks(self, rows):
        names = {
            split: {function["name"] for row in of_split for function in row["function"]}
            for split, of_split in rows.items()
        }
        assert names["train"].isdisjoint(names["test"])
        assert {split: len(found) for split, found in names.items()} == {"train": 751, "test": 188}

    def test_are_distinct_short_and_answerable(self, rows):
        every = [*rows["train"], *rows["test"]]
        assert len({row["id"] for row in every}) == len(every)
        assert max(len(json.dumps(row["function"])) for row in every) <= MAX_SCHEMA
        assert not UNANSWERABLE & {row["id"] for row in every}

    def test_are_held_out_by_a_fixed_hash(self):
        assert [is_held_out(name) for name in ("calculate_bmi", "requests.get")] == [False, True]


class TestDataset:
    def test_golds_and_every_alternative_earn_the_maximum_and_a_wrong_value_does_not(self, rows, datasets):
        correctness, layout = ToolCallReward("hermes"), LayoutReward("hermes")
        for split, dataset in datasets.items():
            solutions = list(dataset["solution"])
            texts = [solution["text"] for solution in solutions]
            assert set(correctness(texts, solution=solutions)) == {3.0}
            assert set(layout(texts, solution=solutions)) == {1.0}
            some = slice(None, None, 1 if split == "test" else 4)  # all would take a minute
            for right in (True, False):
                pairs = [
                    (text(calls), solution)
                    for row, solution in zip(rows[split][some], solutions[some], strict=True)
                    for calls in neighbours(steps_of_bfcl(row)[0], right)
                ]
                scores = correctness([pair[0] for pair in pairs], solution=[pair[1] for pair in pairs])
                assert len(pairs) > 2 * len(solutions[some])
                assert set(scores) == {3.0} if right else max(scores) < 3.0

    def test_official_checker_takes_golds_and_their_alternatives_for_right(self, rows):
        with OfficialBFCL("v4") as official:
            for row in rows["test"]:
                (step,) = steps_of_bfcl(row)
                category = row["id"].split("-")[0].rpartition("_")[0]
                for calls in (gold(step), *neighbours(step, right=True)):
                    verdict = official.check(category, row["id"], [ToolCall(*call) for call in calls])
                    assert verdict.valid, (row["id"], calls, verdict.error)

    def test_schemas_are_json_schemas(self, datasets):
        known = {"object", "array", "string", "integer", "number", "boolean", "null"}

        def types(schema):
            if "type" in schema:
                yield schema["type"]
            for inner in (*schema.get("properties", {}).values(), schema.get("items")):
                if isinstance(inner, dict):
                    yield from types(inner)

        tools = [
            tool["function"] for column in datasets.values() for row in column["tools"] for tool in json.loads(row)
        ]
        assert {kind for tool in tools for kind in types(tool["parameters"])} <= known

    def test_is_no_data_set_of_the_hub(self, rows):
        assert not is_hub_id("bfcl/single") and not is_hub_id_of_card("bfcl/single")
        finding = dataset_finding({"dataset_name": "bfcl/single"})
        assert (finding.status, finding.found) == ("ok", "bfcl/single, 1081 rows of bfcl-eval")


class TestIsTrainedOnBFCL:
    def test_reads_the_tags_of_a_card(self, tmp_path):
        assert not any(map(is_trained_on_bfcl, (None, "", "someone/model", tmp_path)))
        for tags, trained in (("[grpo]", False), ("[grpo, trained-on-bfcl]", True)):
            (tmp_path / "README.md").write_text(f"---\ntags: {tags}\n---\n# A model\n")
            assert is_trained_on_bfcl(tmp_path) is trained
