"""BFCL's form of golds, and golds with alternatives in general, as `load_rest_dataset` reads them."""

import json

import pytest

from rest_trl.data import load_rest_dataset
from rest_trl.data.bfcl import BFCL_NOTE, MAX_FORMS, forms, steps_of_bfcl
from rest_trl.data.messages import MalformedRowError
from rest_trl.data.mixture import MixturePart, build_mixture
from rest_trl.data.sources import open_sources
from rest_trl.lab.sft.rows import tokenize_rows
from rest_trl.rewards import ToolCallReward


def function(name="f.of", required=("city", "days"), **properties):
    return {
        "name": name,
        "description": "F.",
        "parameters": {"type": "dict", "properties": properties, "required": required},
    }


ROW = {
    "id": "simple_0",
    "question": [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Oslo, 3 days"}]],
    "function": [
        function(city={"type": "string"}, days={"type": "integer"}, where={"type": "tuple"}, size={"type": "float"})
    ],
    "ground_truth": [
        {"f.of": {"city": ["Oslo", "Oslo, Norway"], "days": [3], "where": [[1.5, 2]], "size": [2.0, ""]}}
    ],
}


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def call(name="f.of", **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def exact(completion, solution):
    metrics = {}
    ToolCallReward("hermes")([completion], solution=[solution], log_metric=metrics.__setitem__)
    return bool(metrics["rest/reward/exact"])


class TestStepsOfBFCL:
    @pytest.mark.parametrize("as_json", [False, True])
    def test_become_rows_with_alternatives_and_json_schemas(self, tmp_path, tokenizer, as_json):
        row = {key: json.dumps(value) if as_json else value for key, value in ROW.items()}
        (example,) = load_rest_dataset(write(tmp_path, row), tokenizer, strict=True)
        solution = example["solution"]
        assert solution["text"] == call(city="Oslo", days=3, where=[1.5, 2])
        assert json.loads(solution["alternatives"]) == [ROW["ground_truth"][0]["f.of"]]
        parameters = json.loads(example["tools"])[0]["function"]["parameters"]
        types = [parameters["type"], *(schema["type"] for schema in parameters["properties"].values())]
        assert types == ["object", "string", "integer", "array", "number"]
        assert "Be brief." in example["prompt"] and '"type": "number"' in example["prompt"]

    def test_score_as_the_official_answer_says(self, tmp_path, tokenizer):
        (example,) = load_rest_dataset(write(tmp_path, ROW), tokenizer)
        right = {"city": "Oslo, Norway", "days": 3, "where": [1.5, 2]}
        for arguments in (right, right | {"city": "Oslo"}, right | {"size": 2}):
            assert exact(call(**arguments), example["solution"])
        for arguments in (right | {"city": "Bergen"}, right | {"size": 3}, {"city": "Oslo", "days": 3}):
            assert not exact(call(**arguments), example["solution"])

    def test_leave_in_what_the_tool_requires(self):
        row = ROW | {"ground_truth": [{"f.of": {"city": ["", "Oslo"], "days": [3, ""]}}]}
        (step,) = steps_of_bfcl(row)
        assert step.turn["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo", "days": 3}
        assert step.alternatives == [{"city": ["Oslo"], "days": [3]}]

    def test_say_what_training_on_them_means(self):
        assert steps_of_bfcl(ROW)[0].notes == (BFCL_NOTE,)

    @pytest.mark.parametrize(
        ("column", "value", "cause"),
        [
            ("question", [ROW["question"][0]] * 2, "not a list of one turn"),
            ("ground_truth", [], "not a list of calls"),
            ("ground_truth", ["f(1)"], "not a list of calls"),
            ("ground_truth", [{"f.of": {"city": "Oslo"}}], "not a list of calls"),
            ("ground_truth", [{"f.of": {"city": ["Oslo"]}}], r"no value for f.of\(days\), which the tool requires"),
            ("ground_truth", [{"f.of": {"city": ["Oslo"], "days": [""]}}], r"no value for f.of\(days\)"),
        ],
    )
    def test_are_malformed_where_nothing_would_be_right(self, column, value, cause):
        with pytest.raises(MalformedRowError, match=cause):
            steps_of_bfcl(ROW | {column: value})


class TestForms:
    def test_of_an_object_are_all_choices_of_its_keys(self):
        assert forms({"a": [1, 2], "b": ["x", ""]}) == [{"a": 1, "b": "x"}, {"a": 1}, {"a": 2, "b": "x"}, {"a": 2}]
        assert forms([{"a": [1, 2]}, {"b": [3]}]) == [[{"a": 1}, {"b": 3}], [{"a": 2}, {"b": 3}]]

    @pytest.mark.parametrize("value", ["Oslo", 0, None, True, [1, 2], [], ["a", ["b"]]])
    def test_of_any_other_value_is_itself(self, value):
        assert forms(value) == [value]

    def test_are_bounded(self):
        two = {str(key): [1, 2] for key in range(6)}
        assert len(forms(two)) == MAX_FORMS == 64
        with pytest.raises(MalformedRowError, match="more than 64 values"):
            forms(two | {"more": [1, 2]})


class TestAlternatives:
    def test_of_a_solution_are_kept(self, tmp_path, tokenizer):
        gold = {"text": call(a=1), "alternatives": [{"a": [2]}]}
        rows = [{"prompt": "?", "solution": solution} for solution in (gold, call(a=3))]
        dataset = load_rest_dataset(write(tmp_path, *rows), tokenizer, strict=True)
        assert dataset["solution"] == [
            {"text": call(a=1), "alternatives": '[{"a": [2]}]'},
            {"text": call(a=3), "alternatives": None},  # a column has one type
        ]
        assert [exact(call(a=2), solution) for solution in dataset["solution"]] == [True, False]

    def test_change_nothing_where_there_are_none(self, tmp_path, tokenizer):
        dataset = load_rest_dataset(write(tmp_path, {"prompt": "?", "solution": call(a=3)}), tokenizer)
        assert dataset["solution"] == [call(a=3)]

    def test_get_the_random_names_of_masked_parameters(self, tmp_path, tokenizer):
        (example,) = load_rest_dataset(write(tmp_path, ROW), tokenizer, mask_tools=["functions", "parameters"])
        (schema,) = (tool["function"] for tool in json.loads(example["tools"]))
        (alternatives,) = json.loads(example["solution"]["alternatives"])
        assert list(alternatives) == list(schema["parameters"]["properties"]) != list(ROW["ground_truth"][0]["f.of"])
        assert exact(example["solution"]["text"], example["solution"])

    def test_are_not_lost_in_a_mixture(self, tmp_path):
        with pytest.raises(ValueError, match="1 are asked for"):
            build_mixture([MixturePart("bfcl", write(tmp_path, ROW), 1)])

    def test_leave_supervised_training_the_text(self, tmp_path, tokenizer):
        dataset = load_rest_dataset(write(tmp_path, ROW), tokenizer)
        (row,) = tokenize_rows(dataset, tokenizer, "train")
        trained = [label for label in row["labels"] if label >= 0]
        assert tokenizer.decode(trained[:-1]) == dataset["solution"][0]["text"]


class TestBFCLSingle:
    def test_has_two_splits_and_one_configuration(self, tmp_path, monkeypatch):
        monkeypatch.setenv("REST_TRL_CACHE", str(tmp_path))
        with pytest.raises(ValueError, match="splits 'train' and 'test', not 'dev'"):
            open_sources("bfcl/single", "dev", None)
        with pytest.raises(ValueError, match="has the configuration 'one_call', not 'live'"):
            open_sources("bfcl/single", "train", "live")

    def test_names_the_command_where_the_package_is_missing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("REST_TRL_CACHE", str(tmp_path))
        with pytest.raises(FileNotFoundError, match="run `rest-trl evaluate --setup bfcl_v4`"):
            open_sources("bfcl/single", "train", None)
