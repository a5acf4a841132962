import json

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from rest_trl import ResTGRPOConfig
from rest_trl.data import load_rest_dataset
from rest_trl.data.sources import dataset_source
from rest_trl.lab.tiny import TINY_MODEL_DIR, TINY_MODELS
from rest_trl.lab.tiny.agents import HelpDesk
from rest_trl.runs import inputs
from rest_trl.runs.inputs import (
    TASK_EVAL_SIZE,
    TINY_EVAL_SIZE,
    find_environment,
    find_model,
    load_split,
    load_tokenizer,
)
from rest_trl.train import ResTScriptArguments, make_parser


class TestFindModel:
    def test_knows_the_tiny_model_paths_and_ids(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "model").mkdir()
        assert {name: find_model(name) for name in TINY_MODELS} == {k: str(v) for k, v in TINY_MODELS.items()}
        assert find_model("~/model") == str(tmp_path / "model")
        assert find_model("Qwen/Qwen3-1.7B") == "Qwen/Qwen3-1.7B"

    @pytest.mark.parametrize("name", ["/no/such/model", "./model", "~/no-such-model", "outputs/demo/checkpoint-5"])
    def test_refuses_a_path_to_nothing(self, name):
        with pytest.raises(FileNotFoundError, match="there is no model directory"):
            find_model(name)

    def test_takes_a_limit_that_all_prompts_of_the_tiny_world_keep(self, tokenizer):
        arguments = ResTScriptArguments("tiny", max_prompt_length=2048)
        config = ResTGRPOConfig("out", use_cpu=True, bf16=False)
        assert len(load_split(arguments, config, tokenizer, "train", size=8)) == 8

    @pytest.mark.parametrize("name", [None, ""])
    def test_needs_a_name(self, name):
        with pytest.raises(ValueError, match="no model: give --model_name_or_path"):
            find_model(name)

    def test_refuses_a_model_that_the_package_does_not_hold(self):
        with pytest.raises(ValueError, match="choose one of tiny, tiny/decides, tiny/calls, tiny/arguments"):
            find_model("tiny/task")


class TestLoadTokenizer:
    def test_is_that_of_the_model(self):
        tokenizer = load_tokenizer(str(TINY_MODEL_DIR), padding_side="left")
        assert tokenizer.padding_side == "left"
        assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(TINY_MODEL_DIR).get_vocab()

    def test_names_the_model_that_cannot_be_reached(self):
        with pytest.raises(ValueError, match=r"the tokenizer of no/such-model cannot be loaded: "):
            load_tokenizer("no/such-model")
        with pytest.raises(ValueError, match=r"the tokenizer of no/such-model at revision v2 cannot be loaded: "):
            load_tokenizer("no/such-model", "v2")


class TestLoadSplit:
    def test_of_a_task_has_as_many_prompts_for_evaluation_as_a_study_measures(self, tokenizer):
        arguments = ResTScriptArguments("tiny/decides"), ResTGRPOConfig("out", use_cpu=True, bf16=False), tokenizer
        training, evaluation = (load_split(*arguments, split) for split in ("train", "test"))
        assert (len(training), len(evaluation)) == (2048, TASK_EVAL_SIZE)
        assert not set(training["prompt"]) & set(evaluation["prompt"])

    def test_of_an_unknown_task_is_refused(self, tokenizer):
        arguments = ResTScriptArguments("tiny/sums"), ResTGRPOConfig("out", use_cpu=True, bf16=False), tokenizer
        with pytest.raises(ValueError, match="no tiny/sums: choose one of tiny, tiny/decides"):
            load_split(*arguments, "train")

    def test_of_the_tiny_world_has_few_prompts_for_evaluation(self, tokenizer):
        arguments = ResTScriptArguments("tiny"), ResTGRPOConfig("out", use_cpu=True, bf16=False), tokenizer
        training, evaluation = (load_split(*arguments, split) for split in ("train", "test"))
        assert (len(training), len(evaluation)) == (2048, TINY_EVAL_SIZE)
        assert not set(training["prompt"]) & set(evaluation["prompt"])
        assert f"2048 prompts and {TINY_EVAL_SIZE} others for evaluation" in " ".join(
            make_parser().format_help().split()
        )

    @pytest.mark.parametrize("size", [3, 300])
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_of_the_tiny_world_has_as_many_rows_as_are_asked_for(self, tokenizer, split, size):
        # A study that asked for 512 held-out prompts once measured on the 128 of an evaluation in training.
        arguments = ResTScriptArguments("tiny"), ResTGRPOConfig("out", use_cpu=True, bf16=False), tokenizer
        found = load_split(*arguments, split, size=size)
        assert len(found) == size
        assert found["prompt"][:3] == load_split(*arguments, split)["prompt"][:3]

    def test_of_a_file_has_no_more_rows_than_are_asked_for(self, tokenizer, tmp_path):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps({"prompt": f"{row}?", "solution": "No."}) + "\n" for row in range(5)))
        arguments = ResTScriptArguments(str(file)), ResTGRPOConfig("out", use_cpu=True, bf16=False), tokenizer
        assert load_split(*arguments, "train", size=2)["prompt"] == ["0?", "1?"]
        assert len(load_split(*arguments, "train", size=9)) == 5

    def test_masks_tools_by_the_seed_of_the_run(self, tokenizer, tmp_path):
        file = tmp_path / "rows.jsonl"
        answers = [{"name": "depth", "arguments": {"port": "Brest"}}]
        tools = [{"name": "depth", "parameters": {"port": {"type": "str"}}}]
        file.write_text(json.dumps({"query": "?", "tools": tools, "answers": answers}))

        def solution(mask_tools, seed=0):
            arguments = ResTScriptArguments(str(file), mask_tools=mask_tools)
            config = ResTGRPOConfig("out", use_cpu=True, bf16=False, seed=seed)
            return load_split(arguments, config, tokenizer, "train")["solution"][0]

        assert '{"name": "depth", "arguments": {"port": "Brest"}}' in solution(None)
        masked = solution(["functions", "parameters"])
        assert "depth" not in masked and "port" not in masked and "Brest" in masked
        assert masked == solution(["functions", "parameters"]) != solution(["functions", "parameters"], seed=1)
        with pytest.raises(ValueError, match="mask_tools has 'names'"):
            solution(["names"])

    @pytest.mark.parametrize(
        ("arguments", "split", "message"),
        [
            (
                {"max_prompt_length": 8},
                "train",
                "prompts of tiny have up to [0-9]+ tokens, and max_prompt_length is 8",
            ),
            ({"dataset_config": "small"}, "train", "tiny has no configurations, but dataset_config='small'"),
            ({}, "validation", "tiny has the splits 'train' and 'test', not 'validation'"),
        ],
    )
    def test_refuses_what_the_tiny_world_does_not_have(self, tokenizer, arguments, split, message):
        config = ResTGRPOConfig("out", use_cpu=True, bf16=False)
        with pytest.raises(ValueError, match=message):
            load_split(ResTScriptArguments("tiny", **arguments), config, tokenizer, split)

    @pytest.mark.parametrize("name", [None, ""])
    def test_needs_a_name(self, tokenizer, name):
        with pytest.raises(ValueError, match="no data set: give --dataset_name"):
            load_split(ResTScriptArguments(name), ResTGRPOConfig("out", use_cpu=True, bf16=False), tokenizer, "train")

    def test_refuses_to_mask_the_tiny_world(self, tokenizer):
        arguments = ResTScriptArguments("tiny", mask_tools=["functions"])
        with pytest.raises(ValueError, match="mask_tools needs rows with tools"):
            load_split(arguments, ResTGRPOConfig("out", use_cpu=True, bf16=False), tokenizer, "train")


class TestFindEnvironment:
    def test_imports_a_class_or_function(self):
        assert find_environment("rest_trl.lab.tiny.agents.HelpDesk") is HelpDesk

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("HelpDesk", "'HelpDesk' cannot be imported"),
            (".agents.HelpDesk", "'.agents.HelpDesk' cannot be imported"),
            ("absent.HelpDesk", "No module named 'absent'"),
            ("rest_trl.lab.tiny.agents.Absent", "KeyError: 'Absent'"),
            ("rest_trl.lab.tiny.TINY", "is a str, which cannot be called"),
        ],
    )
    def test_refuses_what_is_none(self, name, message):
        with pytest.raises(ValueError, match=message):
            find_environment(name)


class TestHoldOut:
    def test_is_read_by_training_as_by_an_evaluation(self, tokenizer, tmp_path):
        path = tmp_path / "rows.jsonl"
        rows = [{"prompt": str(number), "solution": "No."} for number in range(10)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = ResTGRPOConfig("out", use_cpu=True, bf16=False)
        arguments = ResTScriptArguments(str(path), test_size=0.2)
        train, test = (load_split(arguments, config, tokenizer, split)["source"] for split in ("train", "test"))
        assert sorted([*train, *test]) == [f"rows.jsonl#{number}" for number in range(10)] and len(test) == 2
        assert test == load_rest_dataset(str(path), tokenizer, split="test", test_size=0.2)["source"]

    def test_is_refused_where_there_is_a_split_already(self, tokenizer):
        arguments = ResTScriptArguments("tiny", test_size=0.2), ResTGRPOConfig("out", use_cpu=True, bf16=False)
        with pytest.raises(ValueError, match="tiny has a split test already: leave test_size out"):
            load_split(*arguments, tokenizer, "train")


class TestLoadSplitOfTasks:
    def load(self, name, split="train", size=None, **arguments):
        environment = "rest_trl.lab.tiny.agents.HelpDesk"
        return load_split(
            ResTScriptArguments(name, environment_factory=environment, **arguments), None, None, split, size
        )

    def test_holds_no_rows_out_of_tasks(self):
        with pytest.raises(ValueError, match=r"test_size is for data sets with gold calls, .*: leave it out"):
            self.load("tiny/agents", test_size=0.1)

    def test_of_the_help_desk_has_disjoint_requests(self):
        training, evaluation = self.load("tiny/agents"), self.load("tiny/agents", "test")
        assert (len(training), len(evaluation)) == (2048, TINY_EVAL_SIZE)
        requests = [{row["prompt"][0]["content"] for row in split} for split in (training, evaluation)]
        assert not requests[0] & requests[1]
        assert self.load("tiny/agents", "test", 3)[:] == evaluation[:3]

    def test_of_a_file_keeps_every_column(self, tmp_path):
        file = tmp_path / "tasks.jsonl"
        rows = [{"prompt": [{"role": "user", "content": f"{n}?"}], "goal": n, "more": {"a": n}} for n in range(4)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert list(self.load(str(file))) == rows
        assert list(self.load(str(file), size=2)) == rows[:2]

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            (None, {}, "no data set: give --dataset_name .* or tiny/agents"),
            ("", {}, "no data set: give --dataset_name .* or tiny/agents"),
            ("tiny/agents", {"split": "dev"}, "tiny/agents has the splits 'train' and 'test', not 'dev'"),
            ("tiny/agents", {"dataset_config": "a"}, "tiny/agents has no configurations"),
            ("tiny/decides", {}, "tiny/decides has no tasks for an environment: choose tiny/agents"),
            ("tiny/sums", {}, "the package holds no tiny/sums"),
            ("tiny/agents", {"mask_tools": ["functions"]}, "mask_tools is for data sets with gold calls"),
            ("tiny/agents", {"max_prompt_length": 8}, "max_prompt_length is for data sets with gold calls"),
            ("tiny/agents", {"strict": True}, "strict is for data sets with gold calls"),
        ],
    )
    def test_refuses_what_is_no_task(self, name, arguments, message):
        with pytest.raises(ValueError, match=message):
            self.load(name, **arguments)

    def test_refuses_prompts_of_text(self, tmp_path):
        file = tmp_path / "rows.jsonl"
        file.write_text(json.dumps({"prompt": "?", "goal": 1}))
        with pytest.raises(ValueError, match="no column prompt of messages"):
            self.load(str(file))

    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_refuses_a_file_without_rows(self, tmp_path, suffix):
        file = tmp_path / f"rows.{suffix}"
        if suffix == "parquet":
            Dataset.from_dict({"prompt": []}).to_parquet(file)
        else:
            file.touch()
        with pytest.raises(ValueError, match=rf"rows\.{suffix} is empty: it has no rows to train on"):
            self.load(str(file))

    def test_refuses_a_table_without_rows(self, monkeypatch):
        empty = dataset_source(Dataset.from_dict({"prompt": []}), "tasks")
        monkeypatch.setattr(inputs, "open_sources", lambda *arguments: [empty])
        with pytest.raises(ValueError, match="tasks is empty: it has no rows to train on"):
            self.load("tasks")
