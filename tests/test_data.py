import copy
import json
import logging
from pathlib import Path

import pytest
import trl
from accelerate import PartialState
from datasets import Dataset
from tokenizers.processors import TemplateProcessing

from rest_trl.data import load_rest_dataset, prepare_dataset
from rest_trl.data.loading import prepare_sources
from rest_trl.data.sources import dataset_source
from rest_trl.rewards import ToolSchemaReward


GENERATION_PROMPT = "<|im_start|>assistant\n"

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CLOCK = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}},
}


def tool_call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def dialogue():
    """Three assistant turns: a call, an answer, an answer."""
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Rome?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": [tool_call("get_weather", {"city": "Rome"})]},
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "Bye."},
    ]


def write_lines(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def call_row(arguments, **columns):
    """A dialogue of one step, which calls get_weather."""
    turn = {"role": "assistant", "content": None, "tool_calls": [tool_call("get_weather", arguments)]}
    return {"messages": [{"role": "user", "content": "?"}, turn], **columns}


def with_template(tokenizer, chat_template):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = chat_template
    return tokenizer


def trl_template(name):
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


class TestFilesOfThePaper:
    def test_all_sft_rows_load_with_their_outputs_intact(self, paper_data, tokenizer):
        path = paper_data / "rlla" / "rlla_sft.json"
        rows = json.loads(path.read_text(encoding="utf-8"))
        dataset = load_rest_dataset(str(path), tokenizer, strict=True)
        assert len(dataset) == len(rows) == 400
        assert dataset["solution"] == [row["output"] for row in rows]
        for example, row in zip(dataset, rows, strict=True):
            assert example["prompt"] == (
                f"<|im_start|>system\n{row['instruction']}<|im_end|>\n<|im_start|>user\n{row['input']}<|im_end|>\n"
                + GENERATION_PROMPT
            )

    def test_all_rl_rows_load_with_their_ground_truths_intact(self, paper_data, tokenizer):
        path = paper_data / "rlla" / "rlla_rl_48.parquet"
        rows = Dataset.from_parquet(str(path))
        dataset = load_rest_dataset(str(path), tokenizer, strict=True)
        assert len(dataset) == 48
        assert dataset["solution"] == [row["reward_model"]["ground_truth"] for row in rows]
        assert dataset["source"][:2] == ["rlla_rl_48.parquet#0", "rlla_rl_48.parquet#1"]

    def test_both_schemas_of_the_same_rows_give_the_same_prompts(self, paper_data, tokenizer):
        from_sft = load_rest_dataset(str(paper_data / "rlla" / "rlla_sft.json"), tokenizer)
        from_rl = load_rest_dataset(str(paper_data / "rlla" / "rlla_rl_48.parquet"), tokenizer)
        assert from_rl["prompt"] == from_sft["prompt"][:48]


class TestSchemas:
    def test_messages_become_one_row_per_assistant_turn(self, tokenizer):
        dataset = prepare_dataset(Dataset.from_list([{"messages": dialogue()}]), tokenizer, name="chats")
        call = 'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
        assert dataset["solution"] == [call, "It is sunny.", "Bye."]
        assert dataset["step"] == [0, 1, 2]
        assert dataset["source"] == ["chats#0"] * 3
        first, second, third = dataset["prompt"]
        assert first == (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWeather in Rome?<|im_end|>\n"
            + GENERATION_PROMPT
        )
        tool_result = "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
        assert second == f"{first}{call}<|im_end|>\n{tool_result}{GENERATION_PROMPT}"
        assert third == f"{second}It is sunny.<|im_end|>\n<|im_start|>user\nThanks<|im_end|>\n{GENERATION_PROMPT}"

    def test_each_row_is_rendered_with_its_own_tools(self, tokenizer):
        dataset = prepare_dataset(
            Dataset.from_list([{"messages": dialogue(), "tools": [tool]} for tool in (WEATHER, CLOCK)]), tokenizer
        )
        assert [("get_weather" in p.split("Be brief.")[1].split("<|im_end|>")[0]) for p in dataset["prompt"]] == (
            [True] * 3 + [False] * 3
        )
        assert all("get_time" in prompt for prompt in dataset["prompt"][3:])

    def test_the_tools_of_a_row_come_with_its_golds_which_fit_them(self, tokenizer):
        rows = [{"messages": dialogue(), "tools": [WEATHER]}, {"messages": dialogue(), "tools": [CLOCK]}]
        dataset = prepare_dataset(Dataset.from_list(rows), tokenizer)
        assert json.loads(dataset[0]["tools"]) == [WEATHER]
        judged = ToolSchemaReward("hermes")(dataset["solution"], tools=dataset["tools"])
        assert judged == [[0.0]] * 3 + [[-1.0], [0.0], [0.0]]

    @pytest.mark.parametrize(
        "prompt", ["Rome?", [{"role": "user", "content": "Rome?"}]], ids=["text prompt", "message prompt"]
    )
    @pytest.mark.parametrize("column", ["completion", "solution"])
    def test_a_text_answer_is_taken_as_it_is(self, tokenizer, prompt, column):
        dataset = prepare_dataset(Dataset.from_list([{"prompt": prompt, column: " <think>\nx"}]), tokenizer)
        rendered = prompt if isinstance(prompt, str) else f"<|im_start|>user\nRome?<|im_end|>\n{GENERATION_PROMPT}"
        assert dataset[0] == {"prompt": rendered, "solution": " <think>\nx", "source": "dataset#0", "step": 0}

    def test_the_turns_of_a_completion_are_decomposed_and_those_of_the_prompt_are_history(self, tokenizer):
        messages = dialogue()
        whole = prepare_dataset(Dataset.from_list([{"messages": messages, "tools": [WEATHER]}]), tokenizer)
        rows = [{"prompt": messages[:4], "completion": messages[4:], "tools": [WEATHER]}]
        dataset = prepare_dataset(Dataset.from_list(rows), tokenizer)
        assert dataset["prompt"] == whole["prompt"][1:]
        assert dataset["solution"] == whole["solution"][1:]

    def test_an_rl_row_wins_over_its_prompt_column(self, tokenizer):
        row = {
            "prompt": [{"role": "user", "content": "hi"}],
            "solution": "no",
            "reward_model": {"style": "rule", "ground_truth": "yes"},
        }
        assert prepare_dataset(Dataset.from_list([row]), tokenizer)["solution"] == ["yes"]

    def test_unknown_columns_are_named_with_the_supported_ones(self, tokenizer):
        with pytest.raises(ValueError, match=r"the columns answer, question match no supported schema.*messages") as e:
            prepare_dataset(Dataset.from_list([{"question": "a", "answer": "b"}]), tokenizer, name="qa")
        assert "instruction + input + output" in str(e.value) and str(e.value).startswith("qa:")

    def test_a_missing_column_is_named_with_those_found(self, tokenizer, tmp_path):
        path = write_lines(tmp_path / "a.jsonl", [{"instruction": "a", "output": "b"}])
        with pytest.raises(ValueError, match=r"a.jsonl: the columns instruction, output match no supported schema"):
            load_rest_dataset(path, tokenizer)


class TestHoldOut:
    def test_divides_rows_and_never_a_dialogue_and_always_alike(self, tokenizer, tmp_path):
        rows = [{"messages": [{"role": "system", "content": str(number)}, *dialogue()[1:]]} for number in range(10)]
        path = write_lines(tmp_path / "rows.jsonl", rows)
        train, test = (load_rest_dataset(path, tokenizer, split=split, test_size=0.3) for split in ("train", "test"))
        assert (len(set(train["source"])), len(set(test["source"]))) == (7, 3)
        assert not set(train["source"]) & set(test["source"]) and len(train) + len(test) == 30
        again = load_rest_dataset(path, tokenizer, split="test", test_size=0.3, max_prompt_length=500, seed=7)
        assert again["source"] == test["source"]

    @pytest.mark.parametrize(
        ("test_size", "split", "message"),
        [
            (1.0, "train", r"test_size is 1.0: give the share"),
            (0.3, "validation", "test_size divides the split 'train' into 'train' and 'test', not 'validation'"),
            (0.01, "test", "test_size=0.01 divides 2 rows into 2 and 0"),
        ],
    )
    def test_refuses_what_leaves_nothing(self, tokenizer, tmp_path, test_size, split, message):
        path = write_lines(tmp_path / "rows.jsonl", [call_row({"city": city}) for city in ("Oslo", "Rome")])
        with pytest.raises(ValueError, match=message):
            load_rest_dataset(path, tokenizer, split=split, test_size=test_size)


class TestValues:
    def solutions(self, rows, tokenizer, tmp_path):
        return load_rest_dataset(write_lines(tmp_path / "rows.jsonl", rows), tokenizer, strict=True)["solution"]

    def call(self, arguments):
        return f'<tool_call>\n{{"name": "get_weather", "arguments": {arguments}}}\n</tool_call>'

    def test_json_strings_and_objects_render_alike(self, tokenizer, tmp_path):
        messages = call_row(json.dumps({"city": "Rome", "days": [1, None]}))["messages"]
        rows = [
            call_row({"city": "Rome", "days": [1, None]}, tools=[WEATHER]),
            {"messages": messages, "tools": json.dumps([WEATHER])},
            {"messages": json.dumps(messages), "tools": [json.dumps(WEATHER)]},
        ]
        dataset = load_rest_dataset(write_lines(tmp_path / "rows.jsonl", rows), tokenizer, strict=True)
        assert set(dataset["solution"]) == {self.call('{"city": "Rome", "days": [1, null]}')}
        assert len(set(dataset["prompt"])) == 1 and '"get_weather"' in dataset["prompt"][0]

    def test_arguments_of_other_types_in_every_row_load(self, tokenizer, tmp_path):
        values = ["Rome", 3, 2.5, True, None, ["a", 1], {"deep": {"er": []}}]
        solutions = self.solutions([call_row({"city": value}) for value in values], tokenizer, tmp_path)
        assert solutions == [self.call(json.dumps({"city": value})) for value in values]

    def test_arrow_padding_is_removed_but_nulls_of_json_strings_stay(self, tokenizer):
        rows = [call_row({"city": "Rome"}, tools=[WEATHER]), call_row({"zone": "CET"}, tools=[WEATHER, CLOCK])]
        padded = Dataset.from_list(rows)
        assert padded[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"city": "Rome", "zone": None}
        dataset = prepare_dataset(padded, tokenizer, strict=True)
        assert dataset["solution"] == [self.call('{"city": "Rome"}'), self.call('{"zone": "CET"}')]
        assert "null" not in "".join(dataset["prompt"])
        in_string = prepare_dataset(Dataset.from_list([call_row('{"city": null}')]), tokenizer)
        assert in_string["solution"] == [self.call('{"city": null}')]

    def test_a_bare_call_without_arguments_is_a_call(self, tokenizer, tmp_path):
        rows = [call_row({}), call_row({}), call_row(None)]
        rows[1]["messages"][1]["tool_calls"] = [{"name": "get_weather"}]
        assert self.solutions(rows, tokenizer, tmp_path) == [self.call("{}")] * 3

    def test_parts_of_text_are_joined(self, tokenizer, tmp_path):
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "ab"}]
        messages[1]["content"] = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        assert self.solutions([{"messages": messages}], tokenizer, tmp_path) == ["ab"]

    def test_unicode_survives(self, tokenizer, tmp_path):
        text = "Zürich 東京 🌦 \u2028 e\u0301"
        rows = [call_row({"city": text}), {"messages": [{"role": "user", "content": text}]}]
        rows[1]["messages"].append({"role": "assistant", "content": text})
        path = tmp_path / "rows.jsonl"
        path.write_text("\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
        dataset = load_rest_dataset(str(path), tokenizer, strict=True)
        assert dataset["solution"] == [self.call(f'{{"city": "{text}"}}'), text]
        assert dataset["prompt"][1] == f"<|im_start|>user\n{text}<|im_end|>\n{GENERATION_PROMPT}"

    def test_reasoning_that_quotes_the_tags_is_data(self, tokenizer, tmp_path):
        reasoning = 'The block <tool_call>\n{"name": "fake"}\n</tool_call> and </think> <|im_end|> are how I call.'
        turn = {"role": "assistant", "content": "Done.", "reasoning_content": reasoning}
        row = {"messages": [{"role": "user", "content": "?"}, turn, {"role": "user", "content": "!"}, turn]}
        solution = f"<think>\n{reasoning}\n</think>\n\nDone."
        assert self.solutions([row], tokenizer, tmp_path) == [solution] * 2
        assert self.solutions([{"prompt": "?", "solution": solution}], tokenizer, tmp_path) == [solution]


class TestTemplates:
    """Against the templates of the real models, as TRL ships them."""

    def steps(self, name, tokenizer, messages, **kwargs):
        rows = Dataset.from_list([{"messages": messages, "tools": [WEATHER]}])
        return prepare_dataset(rows, with_template(tokenizer, trl_template(name)), **kwargs)

    def reasoning_dialogue(self):
        messages = dialogue()
        for index in (2, 4, 6):
            messages[index]["reasoning_content"] = f"reason {index}"
        return messages

    @pytest.mark.parametrize(
        ("name", "call"),
        [
            (
                "qwen2_5",
                'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
            ),
            (
                "qwen3_instruct_2507",
                'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
            ),
            ("llama3_2", '{"name": "get_weather", "parameters": {"city": "Rome"}}'),
        ],
    )
    def test_the_end_of_turn_is_no_part_of_the_solution(self, tokenizer, name, call):
        dataset = self.steps(name, tokenizer, dialogue(), strict=True)
        assert dataset["solution"] == [call, "It is sunny.", "Bye."]

    def test_qwen3_keeps_the_reasoning_of_the_turn_and_drops_that_of_earlier_queries(self, tokenizer):
        dataset = self.steps("qwen3", tokenizer, self.reasoning_dialogue(), strict=True)
        assert [solution[: solution.index("</think>")] for solution in dataset["solution"]] == [
            f"<think>\nreason {index}\n" for index in (2, 4, 6)
        ]
        assert "reason 2" in dataset["prompt"][1]
        assert "reason" not in dataset["prompt"][2]

    def test_a_prompt_that_opens_the_reasoning_leaves_the_rest_to_the_solution(self, tokenizer):
        dataset = self.steps("qwen3_5_think", tokenizer, self.reasoning_dialogue(), strict=True)
        assert dataset["prompt"][1].endswith("<think>\n")
        assert dataset["solution"][1] == "reason 4\n</think>\n\nIt is sunny."

    @pytest.mark.parametrize(
        ("name", "messages", "reason"),
        [
            ("nemotron_3_nano", dialogue(), "does not render the turn after its own generation prompt"),
            ("gemma3", dialogue()[1:3], "does not render the call of 'get_weather'"),
            ("gemma3", dialogue()[5:], "the prompt does not show the tool 'get_weather'"),
            ("gemma3", dialogue()[1:5], "Conversation roles must alternate"),
            ("phi3", [*dialogue()[5:6], {**dialogue()[6], "reasoning_content": "why"}], "render reasoning_content"),
            ("deepseekv3", dialogue(), 'TypeError: can only concatenate str (not "dict") to str'),
        ],
    )
    def test_a_template_that_loses_something_is_reported(self, tokenizer, name, messages, reason):
        with pytest.raises(ValueError, match="malformed") as error:
            self.steps(name, tokenizer, messages)
        assert reason in str(error.value)

    def test_an_empty_list_of_tools_renders_no_tool_instructions(self, tokenizer, tmp_path):
        rows = [{"messages": dialogue(), "tools": tools} for tools in ([], "[]", None)]
        path = write_lines(tmp_path / "rows.jsonl", [*rows, {"messages": dialogue()}])
        tokenizer = with_template(tokenizer, trl_template("llama3_2"))
        prompts = load_rest_dataset(path, tokenizer, strict=True)["prompt"]
        assert len(prompts) == 12 and len(set(prompts)) == 3

    @pytest.mark.parametrize("column", ["tools", "functions"])
    def test_a_blank_string_declares_no_tools(self, tokenizer, tmp_path, column):
        rows = [{"messages": dialogue(), column: blank} for blank in (None, "", " \n")]
        dataset = load_rest_dataset(write_lines(tmp_path / "rows.jsonl", rows), tokenizer, strict=True)
        assert "tools" not in dataset.column_names and len(set(dataset["prompt"])) == 3

    def test_text_that_a_template_leaves_out_of_a_gold_is_noted(self, tokenizer):
        messages = dialogue()
        messages[4]["content"] = "<think>\nIt says so.\n</think>\n\nIt is  sunny.\n"
        source = dataset_source(Dataset.from_list([{"messages": messages, "tools": [WEATHER]}]), "d")
        notes = {}
        for name in ("llama3_2", "qwen3", "qwen3_5_think"):
            _, (report,), *_ = prepare_sources([source], with_template(tokenizer, trl_template(name)))
            notes[name] = dict(report.notes)
        (note,) = notes.pop("llama3_2").items()
        assert note == ("gold without all text of its turn: the chat template does not render the rest", 1)
        assert notes == {"qwen3": {}, "qwen3_5_think": {}}

    def test_template_arguments_are_passed_on(self, tokenizer):
        dataset = self.steps("qwen3", tokenizer, dialogue(), chat_template_kwargs={"enable_thinking": False})
        assert dataset["prompt"][0].endswith(f"{GENERATION_PROMPT}<think>\n\n</think>\n\n")
        assert dataset["solution"][1:] == ["It is sunny.", "Bye."]

    def test_without_a_template_messages_are_an_error_and_text_is_not(self, tokenizer):
        bare = with_template(tokenizer, None)
        with pytest.raises(ValueError, match=r"has no chat template.*give prompt and solution as text"):
            prepare_dataset(Dataset.from_list([{"messages": dialogue()}]), bare)
        assert len(prepare_dataset(Dataset.from_list([{"prompt": "a", "solution": "b"}]), bare)) == 1

    def test_the_beginning_of_sequence_token_is_not_doubled(self, tokenizer):
        tokenizer = with_template(tokenizer, "{{ bos_token }}" + tokenizer.chat_template)
        tokenizer.bos_token = "<|endoftext|>"
        rows = Dataset.from_list([{"messages": dialogue()}])
        assert prepare_dataset(rows, tokenizer)["prompt"][0].startswith("<|endoftext|><|im_start|>")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
        )
        prompt = prepare_dataset(rows, tokenizer)["prompt"][0]
        assert tokenizer(prompt)["input_ids"].count(tokenizer.bos_token_id) == 1


USER = {"role": "user", "content": "?"}
ANSWER = {"role": "assistant", "content": "!"}

MALFORMED_DIALOGUES = [
    ({"messages": None}, "messages is missing or null"),
    ({"other": 1}, "messages is missing or null"),
    ({"messages": []}, "messages is not a non-empty list"),
    ({"messages": "[{"}, "messages is not valid JSON"),
    ({"messages": "[" * 100_000}, "messages is not valid JSON"),
    ({"messages": [USER]}, "no assistant turn"),
    ({"messages": [ANSWER]}, "nothing comes before"),
    ({"messages": [USER, "x"]}, "messages[1] is a str, not a message"),
    ({"messages": [USER, {"role": "gpt", "content": "!"}]}, "messages[1] has the role 'gpt'"),
    ({"messages": [{"role": "user"}, ANSWER]}, "messages[0] (user) has no content"),
    ({"messages": [USER, {"role": "assistant", "content": ""}]}, "neither content nor tool calls"),
    ({"messages": [USER, {"role": "assistant", "content": " "}]}, "the solution is empty"),
    ({"messages": [USER, {"role": "assistant", "content": {"a": 1}}]}, "content is a dict, not text"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "a part that is not text"),
    ({"messages": [USER, {"role": "assistant", "content": "\ud800"}]}, "not valid Unicode"),
    ({"messages": [{**USER, "tool_calls": [{"name": "f"}]}, ANSWER]}, "not a list of calls of an assistant"),
    (call_row("{"), "tool_calls[0].arguments is not valid JSON"),
    (call_row("[1]"), "tool_calls[0].arguments is a list, not an object"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {}}]}]}, "has no function name"),
    ({"messages": [USER, ANSWER], "tools": "get_weather"}, "tools is not valid JSON"),
    ({"messages": [USER, ANSWER], "tools": {"name": "f"}}, "tools is a dict, not a list"),
    ({"messages": [USER, ANSWER], "tools": [{"type": "function"}]}, "tools[0] is not a JSON schema with a name"),
    ([1], "it is a list, not an object"),
    ('{"messages": ', "line 2 is not valid JSON (Expecting value at column 14)"),
]


class TestMalformedRows:
    @pytest.fixture
    def warnings(self, caplog):
        caplog.set_level(logging.WARNING, logger="rest_trl.data.loading")
        return caplog

    @pytest.mark.parametrize(("row", "reason"), MALFORMED_DIALOGUES, ids=[reason for _, reason in MALFORMED_DIALOGUES])
    def test_a_malformed_row_is_skipped_and_named_or_with_strict_an_error(
        self, tokenizer, tmp_path, warnings, row, reason
    ):
        good = {"messages": [USER, ANSWER]}
        path = write_lines(tmp_path / "rows.jsonl", [good, row, good])
        dataset = load_rest_dataset(path, tokenizer)
        assert dataset["source"] == ["rows.jsonl#0", "rows.jsonl#2"]
        (record,) = warnings.records
        assert "rows.jsonl: skipped 1 malformed examples and kept 2: row 1" in record.getMessage()
        assert reason in record.getMessage()
        with pytest.raises(ValueError, match=r"^rows.jsonl, row 1") as error:
            load_rest_dataset(path, tokenizer, strict=True)
        assert reason in str(error.value)

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"prompt": [USER], "reward_model": {"style": "rule"}}, "reward_model has no ground_truth"),
            ({"prompt": [USER], "reward_model": {"ground_truth": 3}}, "ground_truth is a int, not a string"),
            ({"prompt": 3, "completion": "x"}, "prompt is not a non-empty list of messages"),
            ({"prompt": "a", "completion": [ANSWER]}, "prompt is text but completion is messages"),
            ({"prompt": [USER], "completion": [USER]}, "no assistant turn"),
            ({"prompt": "", "solution": "x"}, "the prompt is empty"),
            ({"prompt": "a", "solution": ["x"]}, "solution is a list, not a string"),
            ({"prompt": "a", "solution": "x", "tools": [WEATHER]}, "the prompt does not show the tool 'get_weather'"),
            ({"instruction": "a", "input": "b", "output": {"c": 1}}, "output is a dict, not a string"),
        ],
    )
    def test_when_every_row_is_malformed_the_error_gives_the_reasons(self, tokenizer, tmp_path, row, reason):
        path = write_lines(tmp_path / "rows.jsonl", [row] * 7)
        with pytest.raises(ValueError, match=r"All 7 examples are malformed.*, row 4\b.*; and 2 more$") as error:
            load_rest_dataset(path, tokenizer)
        assert reason in str(error.value)

    def test_one_warning_for_a_file_gives_the_count_and_the_first_reasons(self, tokenizer, tmp_path, warnings):
        broken = [{"messages": [USER]}] * 8
        write_lines(tmp_path / "train-0.jsonl", [*broken, {"messages": [USER, ANSWER]}])
        write_lines(tmp_path / "train-1.jsonl", [{"messages": [USER, ANSWER]}, "{"])
        assert len(load_rest_dataset(str(tmp_path), tokenizer)) == 2
        first, second = (record.getMessage() for record in warnings.records)
        assert "train-0.jsonl: skipped 8 malformed examples and kept 1: row 0: there is" in first
        assert first.endswith("row 4: there is no assistant turn to train on; and 3 more")
        assert "train-1.jsonl: skipped 1 malformed examples and kept 1: row 1: line 2" in second

    def test_a_malformed_step_leaves_the_other_steps(self, tokenizer, warnings):
        rows = Dataset.from_list([{"messages": [ANSWER, USER, ANSWER]}])
        assert prepare_dataset(rows, tokenizer)["step"] == [1]
        assert "row 0, step 0: nothing comes before the assistant turn" in warnings.text

    def test_it_warns_before_any_accelerator_is_made(self, tokenizer):
        PartialState._reset_state()
        rows = Dataset.from_list([{"messages": [USER]}, {"messages": [USER, ANSWER]}])
        assert len(prepare_dataset(rows, tokenizer)) == 1


class TestFiles:
    ROW = {"prompt": "a", "solution": "b"}

    def test_an_array_and_lines_and_parquet_give_the_same(self, tokenizer, tmp_path):
        rows = [{"messages": dialogue(), "tools": [WEATHER]}]
        (tmp_path / "a.json").write_text(json.dumps(rows, indent=2))
        Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
        paths = [tmp_path / "a.json", tmp_path / "a.parquet", write_lines(tmp_path / "lines.json", rows)]
        datasets = [load_rest_dataset(str(path), tokenizer).remove_columns("source") for path in paths]
        assert datasets[0].to_list() == datasets[1].to_list() == datasets[2].to_list()

    def test_a_directory_has_the_splits_its_files_are_named_for(self, tokenizer, tmp_path):
        write_lines(tmp_path / "train.jsonl", [self.ROW])
        write_lines(tmp_path / "test.jsonl", [self.ROW, self.ROW])
        assert len(load_rest_dataset(str(tmp_path), tokenizer)) == 1
        assert load_rest_dataset(str(tmp_path), tokenizer, split="test")["source"] == ["test.jsonl#0", "test.jsonl#1"]
        with pytest.raises(ValueError, match="has the splits train, test, not 'dev'"):
            load_rest_dataset(str(tmp_path), tokenizer, split="dev")

    def test_a_directory_of_several_types_is_an_error_and_not_half_read(self, tokenizer, tmp_path):
        write_lines(tmp_path / "a.jsonl", [self.ROW])
        Dataset.from_list([self.ROW]).to_parquet(tmp_path / "b.parquet")
        with pytest.raises(ValueError, match=r"holds files of several types.*leaves out [ab]\.(jsonl|parquet)"):
            load_rest_dataset(str(tmp_path), tokenizer)

    def test_a_relative_directory_is_local(self, tokenizer, tmp_path, monkeypatch):
        (tmp_path / "data" / "tools" / "deep").mkdir(parents=True)
        write_lines(tmp_path / "data" / "tools" / "deep" / "a.jsonl", [self.ROW])
        monkeypatch.chdir(tmp_path)
        assert load_rest_dataset("data/tools", tokenizer)["source"] == ["deep/a.jsonl#0"]

    def test_a_single_file_has_no_other_split_and_no_configuration(self, tokenizer, tmp_path):
        path = write_lines(tmp_path / "a.jsonl", [self.ROW])
        for arguments in ({"split": "test"}, {"config": "main"}):
            with pytest.raises(
                ValueError, match=r"is a single file.*Put the files of several splits into one directory"
            ):
                load_rest_dataset(path, tokenizer, **arguments)

    @pytest.mark.parametrize("name", ["missing.jsonl", "missing/a.parquet", "./missing", "/missing", "a/b/c"])
    def test_a_missing_file_is_not_looked_up_on_the_hub(self, tokenizer, name):
        with pytest.raises(FileNotFoundError, match=f"There is no file or directory {name}"):
            load_rest_dataset(name, tokenizer)

    @pytest.mark.parametrize("content", ["", "\n\n", "[]"])
    def test_an_empty_file_is_an_error(self, tokenizer, tmp_path, content):
        path = tmp_path / "a.json"
        path.write_text(content)
        with pytest.raises(ValueError, match=r"a.json is empty"):
            load_rest_dataset(str(path), tokenizer)

    def test_an_empty_dataset_is_an_error(self, tokenizer):
        with pytest.raises(ValueError, match="dataset is empty"):
            prepare_dataset(Dataset.from_dict({"prompt": [], "solution": []}), tokenizer)

    def test_a_byte_order_mark_is_no_part_of_an_array(self, tokenizer, tmp_path):
        path = tmp_path / "a.json"
        path.write_text("\ufeff" + json.dumps([self.ROW], indent=2), encoding="utf-8")
        assert len(load_rest_dataset(str(path), tokenizer, strict=True)) == 1

    def test_a_broken_array_is_an_error(self, tokenizer, tmp_path):
        path = write_lines(tmp_path / "a.json", ['[{"prompt": "a"}, '])
        with pytest.raises(ValueError, match="starts as a JSON array but cannot be read"):
            load_rest_dataset(path, tokenizer)

    def test_a_line_of_other_encoding_is_skipped(self, tokenizer, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_bytes(json.dumps(self.ROW).encode() + b'\n{"prompt": "\xff\xfe", "solution": "b"}\n')
        assert load_rest_dataset(str(path), tokenizer)["source"] == ["a.jsonl#0"]

    def test_a_parquet_file_that_is_none_is_an_error(self, tokenizer, tmp_path):
        path = write_lines(tmp_path / "a.parquet", ["text"])
        with pytest.raises(ValueError, match=r"a.parquet cannot be read as Parquet"):
            load_rest_dataset(path, tokenizer)

    def test_any_other_name_is_a_hub_id(self, tokenizer, monkeypatch):
        calls = []

        def load_dataset(*args, **kwargs):
            calls.append((args, kwargs))
            return Dataset.from_list([self.ROW])

        monkeypatch.setattr("rest_trl.data.sources.load_dataset", load_dataset)
        dataset = load_rest_dataset("org/name", tokenizer, config="main", split="train[:1]")
        assert calls == [(("org/name", "main"), {"split": "train[:1]"})]
        assert dataset["source"] == ["org/name/train[:1]#0"]

    def test_another_file_type_is_an_error(self, tokenizer, tmp_path):
        path = write_lines(tmp_path / "a.tsv", ["prompt,solution"])
        with pytest.raises(ValueError, match=r"has the type '.tsv': convert it to .json"):
            load_rest_dataset(path, tokenizer)


class TestMaxPromptLength:
    def rows(self, tokenizer):
        prompts = ["a", "a b c d e f g h", "a b"]
        lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
        return Dataset.from_list([{"prompt": prompt, "solution": "x"} for prompt in prompts]), lengths

    def test_longer_prompts_are_dropped_and_counted(self, tokenizer, caplog):
        rows, lengths = self.rows(tokenizer)
        dataset = prepare_dataset(rows, tokenizer, strict=True, max_prompt_length=lengths[2])
        assert dataset["prompt"] == ["a", "a b"]
        assert f"Dropped 1 of 3 examples: prompt over {lengths[2]} tokens" in caplog.text
        assert len(prepare_dataset(rows, tokenizer, max_prompt_length=max(lengths))) == 3

    def test_a_limit_that_drops_all_is_an_error(self, tokenizer):
        rows = Dataset.from_list([{"prompt": "a b c", "solution": "x"}])
        with pytest.raises(ValueError, match=r"All 1 prompts are longer than max_prompt_length=1.*Raise the limit"):
            prepare_dataset(rows, tokenizer, max_prompt_length=1)

    def test_a_limit_below_one_is_an_error(self, tokenizer):
        with pytest.raises(ValueError, match="max_prompt_length is 0"):
            prepare_dataset(Dataset.from_list([{"prompt": "a", "solution": "x"}]), tokenizer, max_prompt_length=0)
