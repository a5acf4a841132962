import json
import re
from collections import defaultdict
from itertools import islice
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rest_trl.lab.tiny import TINY_DATASETS, TINY_MODELS, is_tiny, load_tiny_dataset, resolve_model
from rest_trl.lab.tiny.build import BuildArguments, generate_faulty, generate_gold
from rest_trl.lab.tiny.faults import corrupt_task, slip_in_reasoning
from rest_trl.lab.tiny.tasks import NAMES, TASKS, generate_task
from rest_trl.lab.tiny.world import split_of
from rest_trl.rewards.scoring import call_score, is_exact
from rest_trl.tool_calls import get_syntax


PYTHON_TYPES = {"string": str, "integer": int}
MODELS = {task: TINY_MODELS[f"tiny/{task}"] for task in TASKS}
every_task = pytest.mark.parametrize("task", TASKS)
parse = get_syntax("hermes").parse


def steps(task, split, size, seed=0):
    return list(islice(generate_task(task, split, seed), size))


def words(text):
    return re.findall(r"\w+", text)


@every_task
class TestEveryTask:
    def test_same_seed_gives_same_steps(self, task):
        assert steps(task, "train", 100, seed=3) == steps(task, "train", 100, seed=3)
        assert steps(task, "train", 100, seed=3) != steps(task, "train", 100, seed=4)

    def test_splits_share_no_request_whatever_the_seeds(self, task):
        requests = {
            split: {step.messages[0]["content"] for seed in range(3) for step in steps(task, split, 500, seed)}
            for split in ("train", "test")
        }
        assert not requests["train"] & requests["test"]
        assert all(split_of(step) == "test" for step in steps(task, "test", 100))

    def test_gold_calls_are_read_and_score_the_maximum(self, task):
        for step in steps(task, "train", 300):
            gold = parse(step.solution)
            assert not gold.errors and is_exact(gold, gold) and call_score(gold.calls, gold.calls) == 1
            assert [{"name": call.name, "arguments": call.arguments} for call in gold.calls] == step.calls

    def test_gold_calls_are_offered_and_match_their_schema(self, task):
        for step in steps(task, "train", 300):
            definitions = {tool["function"]["name"]: tool["function"]["parameters"] for tool in step.tools}
            for call in step.calls:
                properties = definitions[call["name"]]["properties"]
                assert list(call["arguments"]) == list(properties)
                for name, value in call["arguments"].items():
                    assert type(value) is PYTHON_TYPES[properties[name]["type"]]

    def test_faults_leave_the_source_alone_and_many_steps_whole(self, task):
        rng, gold = Random(0), steps(task, "train", 400)
        before = [step.solution for step in gold]
        faulty = [corrupt_task(step, rng) for step in gold]
        assert [step.solution for step in gold] == before
        whole = sum(is_exact(parse(one.solution), parse(other)) for one, other in zip(faulty, before, strict=True))
        assert 0.2 < whole / len(gold) < 0.75


class TestDecides:
    def test_no_value_stands_in_the_request_and_all_in_the_reasoning(self):
        for step in steps("decides", "train", 1000):
            request, values = step.messages[0]["content"], list(step.calls[0]["arguments"].values())
            assert len(set(values)) == 3
            assert not {str(value) for value in values} & set(words(request))
            for value in values:
                assert re.search(rf"= ?{value}\.", step.reasoning)

    def test_workings_are_right(self):
        for step in steps("decides", "train", 300):
            *_, day = arguments = step.calls[0]["arguments"].values()
            amounts = re.findall(r"(\d)\+(\d)=(\d+)([+-]\d)=(\d+)\.", step.reasoning)
            assert [(int(a) + int(b), int(total) + int(c)) for a, b, total, c, _ in amounts] == [
                (int(total), int(result)) for *_, total, _, result in amounts
            ]
            assert [int(result) for *_, result in amounts] + [day] == list(arguments)

    def test_offers_a_tool_that_is_nearly_the_right_one(self):
        sample = steps("decides", "train", 500)
        assert {step.calls[0]["name"] for step in sample} == set(NAMES)
        for step in sample:
            first, second = (tool["function"]["name"].split("_") for tool in step.tools)
            assert first != second and set(first) & set(second)

    def test_slips_are_worked_on_with_and_called_with(self):
        rng, slipped = Random(0), 0
        for step in steps("decides", "train", 300):
            reasoning, arguments = slip_in_reasoning(step.reasoning, rng)
            slipped += reasoning != step.reasoning
            assert arguments.keys() == step.calls[0]["arguments"].keys()
            assert all(re.search(rf"= ?{value}\.", reasoning) for value in arguments.values())
        assert 100 < slipped < 230

    def test_a_hard_sum_is_wrong_about_half_of_the_time_and_always_in_the_same_way(self):
        rng, results = Random(0), defaultdict(list)
        for step in steps("decides", "train", 3000):
            reasoning, _ = slip_in_reasoning(step.reasoning, rng)
            for a, b, total in re.findall(r" (\d)\+(\d)=(\d+)", reasoning):
                results[int(a), int(b)].append(int(total))
        slips = {pair: [total for total in totals if total != sum(pair)] for pair, totals in results.items()}
        assert len(slips) == 64 and all(len(set(wrong)) <= 1 for wrong in slips.values())
        shares = [len(slips[pair]) / len(results[pair]) for pair in slips]
        hard = [share for share in shares if share > 0.3]
        assert 8 < len(hard) < 24 and all(0.3 < share < 0.7 for share in hard)
        assert all(share < 0.15 for share in shares if share not in hard)


class TestCalls:
    def test_two_to_four_calls_whose_values_stand_in_the_request(self):
        sample = steps("calls", "train", 300)
        assert {len(step.calls) for step in sample} == {2, 3, 4}
        for step in sample:
            request = words(step.messages[0]["content"])
            assert all(str(value) in request for call in step.calls for value in call["arguments"].values())


class TestArguments:
    def test_one_call_with_eight_values_of_the_request(self):
        for step in steps("arguments", "train", 300):
            (call,) = step.calls
            values = [str(value) for value in call["arguments"].values()]
            assert len(values) == len(set(values)) == 8
            assert set(values) <= set(words(step.messages[0]["content"]))


class TestNames:
    def test_models_and_data_sets_have_the_same(self):
        assert list(TINY_DATASETS) == list(TINY_MODELS) == ["tiny", *(f"tiny/{task}" for task in TASKS), "tiny/agents"]
        assert resolve_model("tiny/decides") == str(MODELS["decides"])

    def test_other_names_are_left_alone(self, tmp_path, monkeypatch):
        assert resolve_model("someone/tiny") == "someone/tiny"
        (tmp_path / "tiny" / "mine").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        assert resolve_model("tiny/mine") == "tiny/mine" and not is_tiny("tiny/mine", TINY_DATASETS)

    def test_unknown_ones_are_refused_with_the_choices(self):
        with pytest.raises(ValueError, match=r"no tiny/decide: do you mean tiny/decides\? choose one of tiny, "):
            resolve_model("tiny/decide")
        with pytest.raises(ValueError, match="no data set tiny/sums: choose one of tiny, tiny/decides"):
            load_tiny_dataset(name="tiny/sums")
        with pytest.raises(ValueError, match="Unknown task 'sums' of the tiny world: use one of decides, calls"):
            generate_task("sums", "train")
        with pytest.raises(ValueError, match="use 'train' or 'test'"):
            next(generate_task("calls", "validation"))


class TestDemonstrations:
    def test_are_of_all_tasks_and_partly_faulty(self):
        args = BuildArguments(output_dir="unused", demonstrations="decides")
        gold = list(islice(generate_gold(args, 0), 80))
        assert {step.kind for step in gold} == set(TASKS)
        faulty = list(islice(generate_faulty(args, 0, Random(0)), 80))
        assert [step.messages for step in faulty] == [step.messages for step in gold]
        assert 10 < sum(one.solution != other.solution for one, other in zip(faulty, gold, strict=True)) < 70


@every_task
class TestCheckpoint:
    def test_is_small_and_agrees_with_its_tokenizer(self, task):
        assert sum(file.stat().st_size for file in MODELS[task].iterdir()) < 2_500_000
        config = json.loads((MODELS[task] / "config.json").read_text())
        assert config["vocab_size"] == len(AutoTokenizer.from_pretrained(MODELS[task]))

    def test_prompts_and_completions_are_short(self, task):
        tokenizer = AutoTokenizer.from_pretrained(MODELS[task])
        dataset = load_tiny_dataset("test", size=200, name=f"tiny/{task}")
        assert dataset.column_names == ["prompt", "solution"]
        prompts, completions = (
            sorted(len(ids) for ids in tokenizer(dataset[name][:]).input_ids) for name in ("prompt", "solution")
        )
        assert prompts[100] < 85 and prompts[-1] < 110
        assert completions[100] < 80 and completions[-1] < (128 if task == "calls" else 96)

    def test_samples_calls_that_can_be_read(self, task):
        tokenizer = AutoTokenizer.from_pretrained(MODELS[task])
        model = AutoModelForCausalLM.from_pretrained(MODELS[task])
        dataset = load_tiny_dataset("test", size=32, name=f"tiny/{task}")
        inputs = tokenizer(dataset["prompt"][:], return_tensors="pt", padding=True, padding_side="left")
        torch.manual_seed(0)
        output_ids = model.generate(**inputs, max_new_tokens=128)[:, inputs.input_ids.shape[1] :]
        parsed = [parse(text) for text in tokenizer.batch_decode(output_ids, skip_special_tokens=True)]
        assert sum(bool(one.calls) and not one.errors for one in parsed) >= 24
