"""Rows in the shape of the public data sets, written here; real files are read by the same code."""

import json

import pytest
from dataset_rows import FERRIES, OPENAI, TOOLACE, XLAM, toolace_row
from datasets import Dataset

from rest_trl.data import load_rest_dataset, prepare_dataset
from rest_trl.data.loading import prepare_sources
from rest_trl.data.row_schemas import NO_CALL
from rest_trl.data.sources import dataset_source, open_sources
from rest_trl.tool_calls import get_syntax


APIGEN_MT = {
    "conversations": [
        {"from": "human", "value": "Book me a berth."},
        {"from": "gpt", "value": "For which night?"},
        {"from": "human", "value": "Tonight."},
        {"from": "function_call", "value": '{"name": "book", "arguments": {"night": "today", "feet": 30}}'},
        {"from": "observation", "value": '{"berth": 7}'},
        {"from": "gpt", "value": "You have berth 7."},
    ],
    "tools": json.dumps([{"name": "book", "parameters": {"type": "object", "properties": {"night": {}, "feet": {}}}}]),
    "system": "Follow the policy of the harbour.",
}
HAMMER_SFT = {
    "instruction": (
        "[BEGIN OF TASK INSTRUCTION]\nCall tools.\n[END OF TASK INSTRUCTION]\n\n"
        "[BEGIN OF AVAILABLE TOOLS]\n[{'name': 'Zk_x9', 'description': \"Depth at a port's quay.\", "
        "'parameters': {'aB3.': {'type': 'str'}}}]\n[END OF AVAILABLE TOOLS]\n\n"
        "[BEGIN OF FORMAT INSTRUCTION]\nWrite JSON.\n[END OF FORMAT INSTRUCTION]\n\n"
        "[BEGIN OF QUERY]\nDepth at Brest?\n[END OF QUERY]\n\n"
    ),
    "input": "",
    "output": '```\n[{"name": "Zk_x9", "arguments": {"aB3.": "Brest"}}]\n```',
}
ROWS = {
    "ToolACE rows": TOOLACE,
    "ShareGPT dialogues": APIGEN_MT,
    "xLAM rows": XLAM,
    "Hammer SFT rows": HAMMER_SFT,
    "OpenAI dialogues": OPENAI,
}


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def prepared(rows, tokenizer, tmp_path, **options):
    return prepare_sources(open_sources(write(tmp_path / "rows.jsonl", rows), "train", None), tokenizer, **options)


def calls(solution):
    return [tuple(call) for call in get_syntax("hermes").parse(solution).calls]


class TestPublicShapes:
    @pytest.mark.parametrize("schema", ROWS)
    def test_a_schema_is_told_by_columns_and_rows_and_named_in_the_report(self, tokenizer, tmp_path, schema):
        _, (report,), *_ = prepared([ROWS[schema]] * 3, tokenizer, tmp_path, strict=True)
        assert report.schema.startswith(schema)
        assert (report.rows, report.rows_kept, report.malformed) == (3, 3, [])
        assert f"rows.jsonl: read as {report.schema}: 3 rows, of which 3 give" in report.summary()

    @pytest.mark.parametrize("schema", ROWS)
    def test_parquet_gives_the_same_as_lines(self, tokenizer, tmp_path, schema):
        rows = [ROWS[schema]] * 2
        lines = prepared(rows, tokenizer, tmp_path).dataset().remove_columns("source")
        Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
        parquet = load_rest_dataset(str(tmp_path / "rows.parquet"), tokenizer).remove_columns("source")
        assert lines.to_list() == parquet.to_list()

    @pytest.mark.parametrize("schema", ["ToolACE rows", "ShareGPT dialogues", "OpenAI dialogues"])
    def test_dialogues_in_json_strings_are_the_same_dialogues(self, tokenizer, tmp_path, schema):
        row = ROWS[schema]
        encoded = {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()}
        assert encoded != row
        one, other = (prepared([r], tokenizer, tmp_path).dataset().to_list() for r in (row, encoded))
        assert one == other

    def test_toolace_calls_in_text_become_calls_of_the_tools_in_the_system_prompt(self, tokenizer, tmp_path):
        examples = prepared([TOOLACE], tokenizer, tmp_path, strict=True).examples
        assert calls(examples[0].solution) == [
            ("Tide Table/v2", {"harbour": "Roscoff, (old)", "days": 2}),
            ("ferries", {}),
        ]
        assert examples[1].solution == "High water is at two."
        assert examples[0].given.history[0]["content"] == "You are the clerk of a harbour.\nToday is a Monday."
        tide = examples[0].given.tools[0]["function"]
        assert tide["parameters"] == {
            "type": "object",
            "properties": {"harbour": {"type": "string"}, "days": {"type": "integer", "description": "how many"}},
            "required": ["harbour"],
        }
        assert "<tool_call>" in examples[1].prompt and "func1(" not in examples[1].prompt

    def test_apigen_mt_function_calls_and_observations_become_turns(self, tokenizer, tmp_path):
        examples = prepared([APIGEN_MT], tokenizer, tmp_path, strict=True).examples
        assert [calls(e.solution) or e.solution for e in examples] == [
            "For which night?",
            [("book", {"night": "today", "feet": 30})],
            "You have berth 7.",
        ]
        assert "<tool_response>\n" + '{"berth": 7}' in examples[2].prompt
        assert examples[0].prompt.startswith("<|im_start|>system\nFollow the policy of the harbour.")

    def test_sharegpt_of_two_names_of_speakers_give_the_same(self, tokenizer, tmp_path):
        names = {"human": "user", "gpt": "assistant", "function_call": "tool_call", "observation": "tool_response"}
        renamed = [{**turn, "from": names[turn["from"]]} for turn in APIGEN_MT["conversations"]]
        one, other = (
            prepared([row], tokenizer, tmp_path).dataset().to_list()
            for row in (APIGEN_MT, {**APIGEN_MT, "conversations": renamed})
        )
        assert one == other

    def test_xlam_parameters_become_a_json_schema_and_all_answers_calls_of_one_turn(self, tokenizer, tmp_path):
        (example,) = prepared([XLAM], tokenizer, tmp_path, strict=True).examples
        assert calls(example.solution) == [("depth", {"port": "Brest"}), ("depth", {"port": "Lorient"})]
        (tool,) = example.given.tools
        assert tool["function"]["parameters"] == {
            "type": "object",
            "properties": {"port": {"type": "string", "default": "Brest"}},
        }

    def test_a_query_without_answers_gets_a_text_and_is_counted(self, tokenizer, tmp_path):
        examples, (report,), *_ = prepared([{**XLAM, "answers": "[]"}, XLAM], tokenizer, tmp_path, strict=True)
        assert examples[0].solution == NO_CALL
        assert list(report.notes.values()) == [1]

    def test_hammer_s_text_for_fine_tuning_is_read_like_its_columns(self, tokenizer, tmp_path):
        (example,) = prepared([HAMMER_SFT], tokenizer, tmp_path, strict=True).examples
        assert calls(example.solution) == [("Zk_x9", {"aB3.": "Brest"})]
        columns = {
            "query": "Depth at Brest?",
            "tools": [
                {"name": "Zk_x9", "description": "Depth at a port's quay.", "parameters": {"aB3.": {"type": "str"}}}
            ],
            "answers": [{"name": "Zk_x9", "arguments": {"aB3.": "Brest"}}],
        }
        (other,) = prepared([columns], tokenizer, tmp_path, strict=True).examples
        assert (example.prompt, example.solution) == (other.prompt, other.solution)

    def test_messages_in_a_column_conversations_are_messages(self, tokenizer, tmp_path):
        row = {"conversations": OPENAI["messages"], "functions": OPENAI["functions"]}
        one, other = (prepared([r], tokenizer, tmp_path).dataset().to_list() for r in (row, OPENAI))
        assert one == other

    def test_a_parameter_called_type_or_properties_is_a_parameter(self, tokenizer, tmp_path):
        parameters = {"type": {"type": "str"}, "properties": {"type": "dict"}}
        row = {**XLAM, "tools": [{"name": "depth", "parameters": parameters}]}
        (example,) = prepared([row], tokenizer, tmp_path, strict=True).examples
        assert example.given.tools[0]["function"]["parameters"] == {
            "type": "object",
            "properties": {"type": {"type": "string"}, "properties": {"type": "object"}},
        }

    @pytest.mark.parametrize(
        ("parameters", "names"),
        [
            ({"properties": {"type": "str", "description": "which"}, "port": {"type": "str"}}, ["properties", "port"]),
            ({"properties": {"port": {"type": "str"}, "other": True}}, ["port", "other"]),
            ({"type": "object", "properties": {"port": "string"}}, ["port"]),
        ],
    )
    def test_what_properties_hold_tells_a_schema_from_a_plain_mapping(self, tokenizer, tmp_path, parameters, names):
        row = {**XLAM, "tools": [{"name": "depth", "parameters": parameters}]}
        (example,) = prepared([row], tokenizer, tmp_path, strict=True).examples
        assert list(example.given.tools[0]["function"]["parameters"]["properties"]) == names


class TestOpenAIFiles:
    def test_the_older_function_call_is_a_call_and_not_left_out(self, tokenizer):
        dataset = prepare_dataset(Dataset.from_list([OPENAI]), tokenizer, strict=True)
        assert calls(dataset["solution"][0]) == [("depth", {"port": "Brest"})]
        assert "<tool_response>\n9\n</tool_response>" in dataset["prompt"][1]

    def test_functions_are_the_tools(self, tokenizer):
        example = prepare_sources([dataset_source(Dataset.from_list([OPENAI]), "d")], tokenizer).examples[0]
        assert [tool["function"]["name"] for tool in example.given.tools] == ["depth"]

    def test_empty_arguments_are_none(self, tokenizer):
        assert calls(prepare_dataset(Dataset.from_list([OPENAI]), tokenizer)["solution"][1]) == [("depth", {})]

    def test_the_developer_is_the_system(self, tokenizer):
        assert prepare_dataset(Dataset.from_list([OPENAI]), tokenizer)["prompt"][0].startswith(
            "<|im_start|>system\nBe brief."
        )

    def test_a_turn_of_weight_0_is_history_alone(self, tokenizer, tmp_path):
        examples, (report,), *_ = prepared([OPENAI], tokenizer, tmp_path)
        assert len(examples) == 2 and "Nine metres." in examples[1].prompt
        assert list(report.notes.values()) == [1]

    def test_it_is_counted_also_where_the_first_trained_turn_cannot_be_rendered(self, tokenizer, tmp_path):
        turns = [("user", "?"), ("assistant", "Nine."), ("assistant", " "), ("user", "!"), ("assistant", "Ten.")]
        messages = [{"role": role, "content": content} for role, content in turns]
        messages[1]["weight"] = 0
        examples, (report,), *_ = prepared([{"messages": messages}], tokenizer, tmp_path)
        assert [example.solution for example in examples] == ["Ten."] and len(report.malformed) == 1
        assert report.notes == {"assistant turn of weight 0, which is history alone": 1}

    @pytest.mark.parametrize("column", ["messages", "conversations"])
    def test_a_column_system_comes_before_the_messages(self, tokenizer, tmp_path, column):
        messages = OPENAI["messages"][1:]
        rows = [{column: messages, "system": "Be brief."}, {column: messages, "system": None}]
        examples, (report,), *_ = prepared(rows, tokenizer, tmp_path, strict=True)
        assert examples[0].given.history == [{"role": "system", "content": "Be brief."}, messages[0]]
        assert examples[2].given.history == [messages[0]]
        assert not any("system" in note for note in report.notes)

    def test_a_system_message_wins_over_the_column_which_is_noted_where_it_says_something_else(
        self, tokenizer, tmp_path
    ):
        rows = [{**OPENAI, "system": system} for system in ("Be brief.", "Be long.")]
        examples, (report,), *_ = prepared(rows, tokenizer, tmp_path, strict=True)
        assert examples[0].prompt == examples[2].prompt and "Be long." not in examples[2].prompt
        (note,) = [note for note in report.notes if "system" in note]
        assert report.notes[note] == 1

    def test_parameters_of_a_call_are_its_arguments(self, tokenizer):
        call = {"name": "depth", "parameters": {"port": "Brest"}}
        row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}]}
        assert calls(prepare_dataset(Dataset.from_list([row]), tokenizer)["solution"][0]) == [
            ("depth", {"port": "Brest"})
        ]


def turn(speaker, value):
    return {"from": speaker, "value": value}


BROKEN = [
    (TOOLACE, {"conversations": [turn("user", "?")]}, "system is missing or null"),
    (TOOLACE, {**TOOLACE, "system": "No tools here."}, "system holds no JSON list of tools"),
    (TOOLACE, {**TOOLACE, "system": {"a": 1}}, "system holds no JSON list of tools"),
    (TOOLACE, toolace_row(("user", "?"), ("assistant", '[ferries(a="b"')), "a call is cut off"),
    (TOOLACE, toolace_row(("user", "?"), ("assistant", "[ferries(3)]")), "'3' has no name"),
    (TOOLACE, toolace_row(("user", "?"), ("assistant", "[ferries(a=b)]")), "'b' is not a literal"),
    (TOOLACE, toolace_row(("user", "?"), ("assistant", "[ferries(a=1, a=2)]")), "'a' comes twice"),
    (TOOLACE, toolace_row(("user", "?"), ("assistant", "[ferries(a=(])]")), "does not match"),
    (TOOLACE, toolace_row(("user", "?"), ("assistant", "[ferries() and more]")), "follows the call of 'ferries'"),
    (APIGEN_MT, {"conversations": None}, "conversations is missing or null"),
    (APIGEN_MT, {"conversations": []}, "conversations is not a non-empty list"),
    (APIGEN_MT, {"conversations": "[{"}, "conversations is not valid JSON"),
    (APIGEN_MT, {"conversations": ["hello"]}, "conversations[0] is a str, not a turn"),
    (APIGEN_MT, {"conversations": [turn("narrator", "...")]}, "conversations[0] is from 'narrator'"),
    (APIGEN_MT, {"conversations": [turn(None, "...")]}, "conversations[0] is from None"),
    (APIGEN_MT, {"conversations": [turn(["human"], "...")]}, "conversations[0] is from ['human']"),
    (APIGEN_MT, {"conversations": [turn("human", None)]}, "conversations[0] (from human) has no value"),
    (APIGEN_MT, {"conversations": [turn("human", 3)]}, "conversations[0].value is a int"),
    (APIGEN_MT, {"conversations": [turn("human", "?")]}, "no assistant turn"),
    (APIGEN_MT, {"conversations": [turn("human", "?"), turn("function_call", "book()")]}, "is not valid JSON"),
    (APIGEN_MT, {"conversations": [turn("human", "?"), turn("function_call", "{}")]}, "has no function name"),
    (APIGEN_MT, {**APIGEN_MT, "system": 3}, "system is a int, not a string"),
    (APIGEN_MT, {**APIGEN_MT, "tools": "book"}, "tools is not valid JSON"),
    (APIGEN_MT, {**APIGEN_MT, "tools": [{"name": "book", "parameters": "x"}]}, "parameters is not valid JSON"),
    (XLAM, {**XLAM, "answers": None}, "answers is missing or null"),
    (XLAM, {"query": "?"}, "tools is missing or null"),
    (XLAM, {**XLAM, "answers": "no"}, "answers is not valid JSON"),
    (XLAM, {**XLAM, "answers": "{}"}, "answers is a dict, not a list of calls"),
    (XLAM, {**XLAM, "answers": [{"arguments": {}}]}, "answers[0] has no function name"),
    (XLAM, {**XLAM, "answers": ["depth"]}, "answers[0] has no function name"),
    (XLAM, {**XLAM, "query": " "}, "query is empty"),
    (XLAM, {**XLAM, "query": ["?"]}, "query is a list, not a string"),
    (HAMMER_SFT, {**HAMMER_SFT, "instruction": "Call tools."}, "no section AVAILABLE TOOLS and no QUERY"),
    (HAMMER_SFT, {**HAMMER_SFT, "output": "```\nsorry\n```"}, "output is not valid JSON"),
    (HAMMER_SFT, {**HAMMER_SFT, "output": '[{{"name": "f"}}]'}, "output is not valid JSON"),
    (HAMMER_SFT, {**HAMMER_SFT, "output": "[" * 100_000}, "output is not valid JSON"),
    (HAMMER_SFT, {**HAMMER_SFT, "output": "-" * 100_000 + "1"}, "output is not valid JSON"),
    (
        HAMMER_SFT,
        {**HAMMER_SFT, "instruction": HAMMER_SFT["instruction"].replace("[{'name'", "[{{'name': 'f'}}, {'name'")},
        "the section AVAILABLE TOOLS is not valid JSON",
    ),
    (OPENAI, {**OPENAI, "messages": OPENAI["messages"][1:], "system": 3}, "system is a int, not a string"),
    (OPENAI, {"messages": [{"role": "critic", "content": "?"}]}, "has the role 'critic'"),
    (OPENAI, {"messages": [{"role": ["user"], "content": "?"}]}, "has the role ['user']"),
    (OPENAI, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "a part that is not text"),
    (OPENAI, {"messages": [*OPENAI["messages"][:2], {**OPENAI["messages"][4]}]}, "all 1 have the weight 0"),
    (
        OPENAI,
        {"messages": [{**OPENAI["messages"][2], "tool_calls": [{"name": "depth"}]}]},
        "has both tool_calls and function_call",
    ),
    (OPENAI, {"messages": [{"role": "user", "content": "?", "function_call": {"name": "f"}}]}, "of an assistant"),
]


class TestMalformedRows:
    @pytest.mark.parametrize(("good", "bad", "reason"), BROKEN, ids=[reason for _, _, reason in BROKEN])
    def test_no_row_is_lost_without_being_counted(self, tokenizer, tmp_path, good, bad, reason):
        examples, (report,), *_ = prepared([good, bad, good], tokenizer, tmp_path)
        assert {example.source for example in examples} == {"rows.jsonl#0", "rows.jsonl#2"}
        assert (report.rows, report.rows_kept) == (3, 2)
        (told,) = report.malformed
        assert told.startswith("row 1") and reason in told

    @pytest.mark.parametrize("schema", ROWS)
    def test_a_prompt_of_a_megabyte_is_left_out_and_counted(self, tokenizer, tmp_path, caplog, schema):
        text = json.dumps(ROWS[schema])
        asked = "Depth at Brest" if "Depth at Brest" in text else "user" if "Tides" in text else "Book me"
        asked = "Tides in" if "Tides in" in text else asked
        huge = json.loads(text.replace(asked, asked + " pier" * 200_000))
        found = prepared([ROWS[schema], huge], tokenizer, tmp_path)
        found.log()
        examples, (report,), too_long, limit, is_default = found
        assert {example.source for example in examples} == {"rows.jsonl#0"}
        assert {example.source for example in too_long} == {"rows.jsonl#1"}
        assert len(examples) + len(too_long) == report.examples
        assert (limit, is_default) == (32_768, True)
        assert "over 32768 tokens, the default where max_prompt_length is not set" in caplog.text

    def test_the_tokenizer_s_own_length_is_the_limit_where_it_is_lower(self, tokenizer, tmp_path, monkeypatch):
        monkeypatch.setattr(tokenizer, "model_max_length", 40)
        rows = [{"prompt": "a", "solution": "b"}, {"prompt": "a b c d" * 100, "solution": "b"}]
        kept, _, too_long, limit, _ = prepared(rows, tokenizer, tmp_path)
        assert (len(kept), len(too_long), limit) == (1, 1, 40)

    def test_rows_of_several_schemas_in_one_file_are_an_error_that_says_so(self, tokenizer, tmp_path):
        rows = [{"conversations": [turn("human", "?")]}, {"conversations": [{"role": "user", "content": "?"}]}]
        with pytest.raises(ValueError, match=r"most of the first 2 rows have no supported schema.*split the file"):
            prepared(rows, tokenizer, tmp_path)


class TestToolsThatAreNotDeclared:
    def row(self, tools):
        call = {"name": "get_tide", "arguments": {}}
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        return {"messages": messages, "tools": tools}

    def test_one_warning_sums_up_golds_whose_tools_the_policy_does_not_read_of(self, tokenizer, tmp_path, caplog):
        rows = [self.row(None)] * 4 + [self.row([FERRIES])] * 3 + [self.row([{"name": "get_tide"}])]
        found = prepared(rows, tokenizer, tmp_path, strict=True)
        found.log()
        (report,) = found.reports
        assert (len(report.without_tools), len(report.undeclared)) == (4, 3)
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert (
            "of 8 golds some call a tool, 4 though their row declares no tools (row 0, step 0; row 1" in record.message
        )
        assert "and 3 that their row does not declare (row 4, step 0: get_tide;" in record.message

    def test_golds_of_declared_tools_pass_without_a_word(self, tokenizer, tmp_path, caplog):
        prepared([self.row([{"name": "get_tide"}])], tokenizer, tmp_path).log()
        assert not [record for record in caplog.records if record.levelname == "WARNING"]


class TestParametersThatAreNotDeclared:
    def row(self, given, **schema):
        call = {"name": "depth", "arguments": given}
        return {"query": "?", "tools": [{"name": "depth", **schema}], "answers": [call]}

    def test_are_counted_in_one_warning(self, tokenizer, tmp_path, caplog):
        properties = {"port": {"type": "string"}}
        schemas = [
            {"inputSchema": {"type": "object", "properties": properties}},
            {"parameters": {"type": "object", "properties": properties, "additionalProperties": True}},
            {"parameters": properties},
        ]
        given = {"port": "Brest"}, {"port": "Brest", "tide": "low"}
        prepared([self.row(each, **schema) for schema in schemas for each in given], tokenizer, tmp_path).log()
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert (
            "of 6 golds 2 give parameters that their tool does not declare (row 1, step 0: depth(tide); row 5"
            in record.message
        )

    def test_are_refused_by_the_name_of_their_key_where_it_is_unknown(self, tokenizer, tmp_path):
        rows = [self.row({}, schema={"properties": {"port": {}}})]
        with pytest.raises(
            ValueError, match=r"tools\[0\] \(depth\) has its parameters under 'schema': rename the key"
        ):
            prepared(rows, tokenizer, tmp_path)


class TestCSV:
    def write(self, path, text):
        path.write_bytes(text.encode("utf-8-sig"))
        return str(path)

    def test_columns_of_text_hold_text_or_json(self, tokenizer, tmp_path):
        answers = [{"name": "depth", "arguments": {"port": 'Brest, "old"\nharbour'}}]
        tools = [{"name": "depth", "parameters": {"port": {"type": "string"}}}]
        cells = ["How deep?", json.dumps(tools), json.dumps(answers)]
        line = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
        examples = load_rest_dataset(
            self.write(tmp_path / "rows.csv", f"query,tools,answers\r\n{line}\r\n"), tokenizer
        )
        (call,) = get_syntax("hermes").parse(examples["solution"][0]).calls
        assert [call._asdict()] == answers

    def test_a_line_with_too_many_fields_is_malformed(self, tokenizer, tmp_path):
        path = self.write(tmp_path / "rows.csv", "prompt,solution\na,b\nc,d,e\n")
        _, (report,), *_ = prepare_sources(open_sources(path, "train", None), tokenizer)
        assert (report.rows_kept, report.malformed) == (1, ["row 1: line 3 has more fields than the header"])

    def test_what_is_not_csv_is_an_error_that_names_the_file(self, tokenizer, tmp_path):
        path = self.write(tmp_path / "rows.csv", 'prompt,solution\n"a" b,c\n')
        with pytest.raises(ValueError, match=r"rows\.csv cannot be read as CSV: "):
            load_rest_dataset(path, tokenizer)
