import json

import pytest
from dataset_rows import query_row, toolace_row
from datasets import Dataset

from rest_trl.data import load_rest_dataset
from rest_trl.data.mixture import MixturePart, TestQuestions, build_mixture, write_mixture
from rest_trl.data.sources import open_sources
from rest_trl.tool_calls import get_syntax


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path):
    """30 dialogues of two steps, and 60 queries, of which Hammer and xLAM are to share none."""
    dialogues = [
        toolace_row(
            ("user", f"Boat {n}?"), ("assistant", "[ferries()]"), ("tool", "[]"), ("assistant", f"None for boat {n}.")
        )
        for n in range(30)
    ]
    toolace = write(tmp_path / "toolace.jsonl", [*dialogues, {"system": "no tools", "conversations": []}])
    return toolace, write(tmp_path / "xlam.jsonl", [query_row(number) for number in range(60)])


def parts(files, *numbers):
    toolace, xlam = files
    return [
        MixturePart("toolace", toolace, numbers[0]),
        MixturePart("hammer", xlam, numbers[1], ("functions", "parameters")),
        MixturePart("xlam", xlam, numbers[2]),
    ]


def first_question(row):
    return next(message["content"] for message in row["prompt"] if message["role"] == "user")


class TestBuildMixture:
    def test_each_part_gives_as_many_steps_as_it_is_asked_for(self, files):
        train, test, reports = build_mixture(parts(files, 20, 10, 10), test_number=8)
        names = [report.name for report in reports]
        assert [sum(row["part"] == name for row in train) for name in names] == [20, 10, 10]
        assert [sum(row["part"] == name for row in test) for name in names] == [4, 2, 2]
        assert [(report.drawn, report.test) for report in reports] == [(20, 4), (10, 2), (10, 2)]

    @pytest.mark.parametrize(
        ("numbers", "test_number", "shares"),
        [((10, 10, 10), 4, [2, 1, 1]), ((10, 10, 10), 5, [2, 2, 1]), ((20, 3, 7), 10, [7, 1, 2])],
    )
    def test_the_test_has_as_many_steps_as_it_is_asked_for(self, files, numbers, test_number, shares):
        _, test, reports = build_mixture(parts(files, *numbers), test_number=test_number)
        assert len(test) == test_number
        assert [report.test for report in reports] == shares

    def test_masks_that_there_are_not_are_an_error(self, files):
        with pytest.raises(ValueError, match="has 'names': choose from functions, parameters"):
            build_mixture([MixturePart("xlam", files[1], 1, ("names",))])

    def test_no_question_is_in_two_parts_or_on_both_sides(self, files):
        train, test, _ = build_mixture(parts(files, 20, 10, 10), test_number=8)
        owners = {}
        for side, rows in (("train", train), ("test", test)):
            for row in rows:
                owners.setdefault(first_question(row), set()).add((side, row["part"]))
        assert all(len(places) == 1 for places in owners.values())
        assert len(owners) > 30

    def test_every_row_is_counted(self, files):
        _, _, reports = build_mixture(parts(files, 20, 10, 10))
        toolace, hammer, xlam = reports
        assert (toolace.rows, len(toolace.malformed)) == (31, 1)
        assert toolace.malformed[0] == "toolace.jsonl#30: system holds no JSON list of tools"
        assert (hammer.rows, hammer.same_query, hammer.malformed) == (60, 0, [])
        assert (xlam.rows, xlam.same_query, xlam.malformed) == (60, 10, [])

    def test_rows_of_the_same_question_are_drawn_once(self, files, tmp_path):
        twice = write(
            tmp_path / "twice.jsonl", [query_row(1), {**query_row(1), "query": query_row(1)["query"].upper()}]
        )
        train, _, (report,) = build_mixture([MixturePart("xlam", twice, 1)])
        assert (len(train), report.same_query) == (1, 1)

    def test_names_are_masked_in_one_part_alone(self, files):
        train, _, _ = build_mixture(parts(files, 20, 10, 10))
        for row in train:
            (tool, *_) = json.loads(row["tools"])
            if row["part"] == "xlam":
                assert tool["function"]["name"].startswith("depth_")
            if row["part"] == "hammer":
                (call,) = row["completion"][0]["tool_calls"]
                assert call["function"]["name"] == tool["function"]["name"]
                assert not call["function"]["name"].startswith("depth_")
                assert (
                    set(json.loads(call["function"]["arguments"]))
                    == set(tool["function"]["parameters"]["properties"])
                    != {"berth"}
                )

    def test_the_seed_decides(self, files):
        one, again, other = (build_mixture(parts(files, 20, 10, 10), seed=seed) for seed in (0, 0, 1))
        assert one == again and one[0] != other[0]

    def test_questions_of_tests_are_kept_out(self, files, tmp_path):
        asked = [{"question": [[{"role": "user", "content": f"Boat {n}?"}]]} for n in range(9)]
        tests = TestQuestions([write(tmp_path / "BFCL_v3_simple.json", asked)])
        train, test, (report,) = build_mixture([MixturePart("toolace", files[0], 40)], tests=tests, test_number=2)
        assert report.leaks == 9
        assert not {first_question(row) for row in [*train, *test]} & {f"Boat {n}?" for n in range(9)}

    def test_too_few_steps_are_an_error(self, files):
        with pytest.raises(ValueError, match=r"toolace: .* has 60 steps that can be drawn, and 70 are asked for"):
            build_mixture(parts(files, 70, 10, 10))

    def test_text_in_a_final_form_is_counted_and_not_mixed(self, tmp_path):
        text = write(tmp_path / "text.jsonl", [{"prompt": "a", "solution": "b"}])
        with pytest.raises(ValueError, match="has 0 steps"):
            build_mixture([MixturePart("toolace", text, 1)])


class TestWriteMixture:
    def test_the_file_trains_with_the_calls_that_the_rows_made(self, files, tmp_path, tokenizer):
        train, _, _ = build_mixture(parts(files, 20, 10, 10))
        path = tmp_path / "out" / "train.parquet"
        write_mixture(train, path)
        assert sorted(path.parent.iterdir()) == [path]
        assert Dataset.from_parquet(str(path)).column_names == ["prompt", "completion", "tools", "part", "source"]
        dataset = load_rest_dataset(str(path), tokenizer, strict=True)
        assert len(dataset) == 40
        parse = get_syntax("hermes").parse
        for row, solution in zip(train, dataset["solution"], strict=True):
            calls = row["completion"][0]["tool_calls"] or []
            expected = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]
            assert [tuple(call) for call in parse(solution).calls] == expected

    def test_reasoning_and_the_names_of_results_are_in_the_file_where_messages_have_them(self, files, tmp_path):
        call = {"type": "function", "function": {"name": "depth", "arguments": {"port": "Brest"}}}
        messages = [
            {"role": "user", "content": "Depth at Brest?"},
            {"role": "assistant", "content": "", "reasoning_content": "I ask.", "tool_calls": [call]},
            {"role": "tool", "name": "depth", "content": "9"},
            {"role": "assistant", "content": "Nine.", "thinking": "It says nine."},
        ]
        tools = [{"type": "function", "function": {"name": "depth", "parameters": {"properties": {"port": {}}}}}]
        chats = write(tmp_path / "chats.jsonl", [{"messages": messages, "tools": tools}])
        xlam = MixturePart("xlam", files[1], 10)
        train, _, _ = build_mixture([xlam, MixturePart("chats", chats, 2, ("functions",))])
        write_mixture(train, tmp_path / "train.parquet")
        (source,) = open_sources(str(tmp_path / "train.parquet"), "train", None)
        rows = [source.row(raw) for raw in source.rows]
        assert all(set(row["prompt"][0]) == {"role", "content"} for row in rows)
        first, second = sorted((row for row in rows if row["part"] == "chats"), key=lambda row: len(row["prompt"]))
        assert first["completion"][0]["reasoning_content"] == "I ask."
        _, asked, result = second["prompt"]
        assert (asked["reasoning_content"], second["completion"][0]["thinking"]) == ("I ask.", "It says nine.")
        assert result["name"] == asked["tool_calls"][0]["function"]["name"] != "depth"

    def test_reasoning_that_is_no_text_is_counted_as_malformed(self, tmp_path):
        turn = {"role": "assistant", "content": "Nine.", "thinking": [{"text": "It says nine."}]}
        rows = [
            {"messages": [{"role": "user", "content": f"{n}?"}, turn | extra]}
            for n, extra in enumerate([{}, {"thinking": "a"}])
        ]
        _, _, (report,) = build_mixture([MixturePart("chats", write(tmp_path / "chats.jsonl", rows), 1)])
        assert report.malformed == ["chats.jsonl#0: thinking of a message is a list, not a string"]
