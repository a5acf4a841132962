import json
import subprocess
import sys
from collections import Counter
from datetime import date
from itertools import islice
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset
from rest_trl.lab.tiny.build import (
    BuildArguments,
    build_model,
    demonstration_batches,
    save,
    train_on_faulty,
    train_on_gold,
)
from rest_trl.lab.tiny.faults import corrupt_world
from rest_trl.lab.tiny.tokenization import MARKERS, build_tokenizer
from rest_trl.lab.tiny.tools import TOOLS
from rest_trl.lab.tiny.world import DIALOGUE_SHARES, generate, split_of


PYTHON_TYPES = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_MODEL_DIR)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR)


def steps(split, size, seed=0):
    return list(islice(generate(split, seed), size))


def assert_matches_schema(value, schema):
    assert type(value) is PYTHON_TYPES[schema["type"]]
    if "enum" in schema:
        assert value in schema["enum"]
    if schema.get("format") == "date":
        assert date.fromisoformat(value).isoformat() == value
    if schema["type"] == "object":
        assert set(value) == set(schema["required"])
        for name, member in value.items():
            assert_matches_schema(member, schema["properties"][name])
    if schema["type"] == "array":
        assert value
        for member in value:
            assert_matches_schema(member, schema["items"])


class TestWorld:
    def test_same_seed_gives_same_steps(self):
        assert steps("train", 200, seed=3) == steps("train", 200, seed=3)
        assert steps("train", 200, seed=3) != steps("train", 200, seed=4)

    def test_steps_do_not_depend_on_hash_randomisation(self):
        script = "from rest_trl.lab.tiny.world import generate; print([next(generate('train', s)) for s in range(20)])"
        outputs = {
            subprocess.run(
                [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
            ).stdout
            for seed in ("1", "2")
        }
        assert len(outputs) == 1

    def test_world_needs_no_torch(self):
        script = "import sys, rest_trl.lab.tiny; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", script]).returncode == 0

    def test_steps_are_distinct(self):
        keys = [json.dumps([step.tools, step.messages]) for step in steps("train", 2000)]
        assert len(set(keys)) == len(keys)

    def test_splits_share_no_request_whatever_the_seeds(self):
        requests = {
            split: {step.messages[0]["content"] for seed in range(3) for step in steps(split, 1000, seed)}
            for split in ("train", "test")
        }
        assert not requests["train"] & requests["test"]
        assert all(split_of(step) == "test" for step in steps("test", 100))

    def test_unknown_split_is_refused(self):
        with pytest.raises(ValueError, match="use 'train' or 'test'"):
            next(generate("validation"))

    def test_every_gold_call_is_offered_and_matches_its_schema(self):
        for step in steps("train", 1000):
            definitions = {tool["function"]["name"]: tool["function"]["parameters"] for tool in step.tools}
            for call in step.calls:
                parameters = definitions[call["name"]]
                assert list(call["arguments"]) == parameters["required"]
                for name, value in call["arguments"].items():
                    assert_matches_schema(value, parameters["properties"][name])

    def test_every_kind_of_case_occurs(self):
        sample = steps("test", 1000)
        assert set(DIALOGUE_SHARES) == {step.kind for step in sample}
        assert {call["name"] for step in sample for call in step.calls} == set(TOOLS)
        assert {len(step.calls) for step in sample} == {0, 1, 2}
        schemas = {json.dumps(kind.schema) for tool in TOOLS.values() for kind in tool.parameters.values()}
        assert {json.loads(schema)["type"] for schema in schemas} == {"string", "integer", "boolean", "array"}
        assert any("I need" in step.reasoning for step in sample) and any("I need" not in s.reasoning for s in sample)
        lengths = Counter(len(step.messages) for step in sample if step.kind == "multi_step")
        assert set(lengths) == {1, 3, 5}

    def test_a_later_step_uses_the_tool_result(self):
        for step in steps("train", 1000):
            if step.kind == "multi_step" and len(step.messages) == 3:
                result = json.loads(step.messages[-1]["content"])
                assert result.items() <= step.calls[0]["arguments"].items()

    def test_step_calls_or_answers(self):
        assert all(bool(step.calls) != bool(step.answer) for step in steps("train", 1000))


class TestSolution:
    def test_hermes_syntax_of_calls_and_answers(self):
        for step in steps("train", 500):
            lines = step.solution.split("\n")
            assert lines[:3] == ["<think>", step.reasoning, "</think>"]
            if step.calls:
                blocks = [lines[start : start + 3] for start in range(3, len(lines), 3)]
                assert all(block[0] == "<tool_call>" and block[2] == "</tool_call>" for block in blocks)
                assert [json.loads(block[1]) for block in blocks] == step.calls
            else:
                assert lines[3:] == [step.answer]

    def test_is_what_the_chat_template_renders(self, tokenizer):
        for step in steps("train", 200):
            calls = [{"type": "function", "function": call} for call in step.calls]
            gold = {
                "role": "assistant",
                "content": step.answer,
                "tool_calls": calls,
                "reasoning_content": step.reasoning,
            }
            prompt = tokenizer.apply_chat_template(
                step.messages, tools=step.tools, add_generation_prompt=True, tokenize=False
            )
            full = tokenizer.apply_chat_template([*step.messages, gold], tools=step.tools, tokenize=False)
            assert full == prompt + step.solution + tokenizer.eos_token + "\n"


class TestCorruption:
    def test_calls_differ_and_source_is_untouched(self):
        rng = Random(0)
        for step in steps("train", 500):
            before = step.solution
            assert corrupt_world(step, rng).calls != step.calls
            assert step.solution == before

    def test_faults_are_well_formed_calls_of_offered_tools(self):
        rng = Random(0)
        for step in steps("train", 500):
            offered = {tool["function"]["name"] for tool in step.tools}
            for call in corrupt_world(step, rng).calls:
                assert call["name"] in offered
                assert set(call["arguments"]) == set(TOOLS[call["name"]].parameters)


class TestTokenizer:
    @pytest.mark.parametrize(
        "text", ["find a train", "  two\n\n\tlines ", "déjà vu 你好 🙂", '{"a": [1.5, {"b": null}]}']
    )
    def test_round_trip(self, tokenizer, text):
        assert tokenizer.decode(tokenizer(text).input_ids) == text

    def test_gold_completions_survive_decoding_without_special_tokens(self, tokenizer):
        for step in steps("test", 200):
            completion_ids = tokenizer(step.solution + tokenizer.eos_token).input_ids
            assert tokenizer.decode(completion_ids, skip_special_tokens=True) == step.solution

    def test_markers_are_single_tokens_but_not_special(self, tokenizer):
        for marker in MARKERS:
            (token_id,) = tokenizer(marker).input_ids
            assert token_id not in tokenizer.all_special_ids

    def test_turn_end_is_eos_and_padding_differs(self, tokenizer):
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")

    def test_template_renders_signatures_system_text_and_tool_results(self, tokenizer):
        call = {"function": {"name": "f", "arguments": '{"x": 1}'}}
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Go."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "7"},
        ]
        parameters = {"type": "object", "properties": {"x": {"type": "integer"}, "d": {"format": "date"}}}
        tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}, {"name": "g"}]
        text = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
        assert text == (
            "<|im_start|>system\nBe brief.\nf(x: integer, d: date)\ng()<|im_end|>\n"
            "<|im_start|>user\nGo.<|im_end|>\n"
            '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>\n'
            "<|im_start|>user\n<tool_response>\n7\n</tool_response><|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    def test_template_without_tools_or_system_text(self, tokenizer):
        text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi."}], tokenize=False)
        assert text == "<|im_start|>user\nHi.<|im_end|>\n"


class TestDataset:
    def test_columns_and_lengths(self, tokenizer):
        dataset = load_tiny_dataset("test", size=300, seed=1)
        assert dataset.column_names == ["prompt", "solution"] and len(dataset) == 300
        prompt_lengths = sorted(len(ids) for ids in tokenizer(dataset["prompt"][:]).input_ids)
        completion_lengths = sorted(len(ids) for ids in tokenizer(dataset["solution"][:]).input_ids)
        assert prompt_lengths[0] >= 35 and prompt_lengths[150] <= 80
        assert 40 <= completion_lengths[150] <= 90 and completion_lengths[-1] < 160

    def test_prompts_of_the_splits_are_disjoint(self):
        train, test = load_tiny_dataset("train", size=500), load_tiny_dataset("test", size=500)
        assert not set(train["prompt"]) & set(test["prompt"])

    def test_smaller_data_set_is_a_prefix(self):
        assert load_tiny_dataset("train", size=20)[:] == load_tiny_dataset("train", size=50)[:20]


class TestCheckpoint:
    def test_is_below_three_megabytes(self):
        assert sum(file.stat().st_size for file in TINY_MODEL_DIR.iterdir()) < 3_000_000

    def test_agrees_with_its_tokenizer(self, model, tokenizer):
        assert model.config.vocab_size == len(tokenizer)
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id

    def test_sampled_completions_are_well_formed_and_mostly_end(self, model, tokenizer):
        prompts = load_tiny_dataset("test", size=32)["prompt"][:]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        torch.manual_seed(0)
        output_ids = model.generate(**inputs, max_new_tokens=160)[:, inputs.input_ids.shape[1] :]
        completions = tokenizer.batch_decode(output_ids, skip_special_tokens=True)
        assert sum(text.startswith("<think>\n") and text.count("</think>") == 1 for text in completions) >= 29
        assert (output_ids == tokenizer.eos_token_id).any(dim=1).sum() >= 29


class TestBuild:
    def test_loss_is_on_the_completion_and_its_end_of_turn(self, tokenizer):
        step = steps("train", 1)[0]
        batch = next(demonstration_batches(iter([step] * 2), tokenizer, 2, Random(0)))
        text = tokenizer.decode(batch["input_ids"][0, 1:][batch["loss_mask"][0]])
        assert text == step.solution + tokenizer.eos_token

    def test_is_deterministic_and_lowers_the_loss(self):
        texts = [step.solution for step in steps("train", 100)]
        tokenizer = build_tokenizer(texts, vocab_size=400)
        args = BuildArguments(output_dir="unused", gold_steps=8, faulty_steps=1, batch_size=4)
        losses, weights = [], []
        for _ in range(2):
            torch.manual_seed(0)
            model = build_model(tokenizer)
            losses.append(train_on_gold(model, tokenizer, args) + train_on_faulty(model, tokenizer, args))
            weights.append(model.state_dict())
        assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    def test_saved_checkpoint_loads(self, tokenizer, tmp_path):
        model = build_model(tokenizer)
        save(model, tokenizer, tmp_path / "new" / "checkpoint")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "checkpoint")
        assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
        assert not [path for path in (tmp_path / "new" / "checkpoint").iterdir() if path.is_dir()]
