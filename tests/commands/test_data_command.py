import json
import re
import signal

import pytest
from dataset_rows import OPENAI, TOOLACE, XLAM, query_row, toolace_row
from datasets import Dataset

from rest_trl import ResTGRPOConfig
from rest_trl.data import loading
from rest_trl.data.figures import bins
from rest_trl.lab.commands.data import main
from rest_trl.lab.tiny import load_tiny_dataset
from rest_trl.runs.inputs import TINY_EVAL_SIZE, load_split
from rest_trl.train import ResTScriptArguments


TINY = ("--model_name_or_path", "tiny")


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the command and returns what it prints, without the lines of a table."""
    monkeypatch.setenv("COLUMNS", "160")

    def printed(*args):
        main([str(arg) for arg in args])
        return capsys.readouterr().out

    return printed


class TestShow:
    def test_says_what_was_read_as_what_and_what_was_skipped(self, run, tmp_path):
        out = run("show", write(tmp_path / "a.jsonl", [TOOLACE, {"system": "x"}, TOOLACE]), *TINY)
        cells = [cell.strip() for line in out.splitlines() if "a.jsonl │" in line for cell in line.split("│")]
        assert cells[1:-1] == [
            "a.jsonl", "ToolACE rows, calls in text (by conversations + system and 2 of the first 2 rows)",
            "3", "2", "4", "1",
        ]  # fmt: skip
        assert "a.jsonl: skipped: 1\n  row 1: conversations is missing or null" in out
        assert "Golds in the syntax hermes: 2 with calls, 2 without, 0 unreadable" in out

    def test_shows_lengths_and_the_share_over_the_limit(self, run, tmp_path):
        rows = [{"prompt": "a " * length, "solution": "b"} for length in (10, 20, 30, 400)]
        file = write(tmp_path / "a.jsonl", rows)
        out = run("show", file, *TINY, "--max_prompt_length", "100", "--limit", 0)
        assert "over 100: 25.0%" in out and "Prompts over 100 tokens, dropped: 1\n  a.jsonl#3, step 0" in out
        bars = [line for line in out.splitlines() if "█" in line]
        assert [line.split()[-1] for line in bars[:2]] == ["3", "1"]

    def test_shows_prompts_and_golds(self, run, tmp_path):
        file = write(tmp_path / "a.jsonl", [XLAM, {**XLAM, "query": "Not shown?"}])
        out = run("show", file, *TINY, "--limit", "1")
        assert "Depth at Brest and at Lorient?<|im_end|>" in out and "Not shown?" not in out
        assert '{"name": "depth", "arguments": {"port": "Lorient"}}' in out

    def test_masks_names(self, run, tmp_path):
        file = write(tmp_path / "a.jsonl", [XLAM])
        out = run("show", file, *TINY, "--mask_tools", "functions", "parameters")
        assert '"name": "depth"' not in out and '"port"' not in out and '"Lorient"' in out

    def test_names_golds_that_a_syntax_cannot_read(self, run, tmp_path):
        row = {"prompt": "a", "solution": '<tool_call>\n{"name": \n</tool_call>'}
        out = run("show", write(tmp_path / "a.jsonl", [row]), *TINY)
        assert "1 unreadable" in out and "Unreadable golds, which give no reward: 1\n  a.jsonl#0, step 0: " in out

    def test_tells_of_tools_that_are_not_declared_and_of_notes(self, run, tmp_path):
        row = {key: value for key, value in OPENAI.items() if key != "functions"}
        out = run("show", write(tmp_path / "a.jsonl", [row]), *TINY)
        assert "golds with calls and no tools in their row: 2" in out and "1 x assistant turn of weight 0" in out

    def test_shows_the_part_that_test_size_leaves_or_holds_out(self, run, tmp_path, tokenizer):
        rows = [{"prompt": f"prompt {number}.", "solution": "b"} for number in range(10)]
        file, shown = write(tmp_path / "a.jsonl", rows), {}
        for split in ("train", "test"):
            out = run("show", file, *TINY, "--test_size", "0.3", "--split", split, "--limit", "10")
            shown[split] = {number for number in range(10) if f"prompt {number}." in out}
            loaded = loading.load_rest_dataset(file, tokenizer, split=split, test_size=0.3)
            assert {f"prompt {number}." for number in shown[split]} == set(loaded["prompt"])
            assert f"{len(loaded)} of 10 examples are the split {split} with test_size=0.3" in out
        assert len(shown["test"]) == 3 and shown["train"] | shown["test"] == set(range(10))
        (tmp_path / "recipe.yaml").write_text("test_size: 0.3\n")
        assert "7 of 10 examples" in run("show", file, *TINY, "--config", tmp_path / "recipe.yaml")

    def test_takes_the_rest_from_a_recipe(self, run, tmp_path):
        (tmp_path / "recipe.yaml").write_text(
            "model_name_or_path: tiny\ndataset_name: elsewhere.jsonl\nmax_prompt_length: 33\nlearning_rate: 1.0\n"
        )
        file = write(tmp_path / "a.jsonl", [{"prompt": "a", "solution": "b"}])
        assert "over 33: 0.0%" in run("show", file, "--config", tmp_path / "recipe.yaml")
        assert "over 44: 0.0%" in run("show", file, "--config", tmp_path / "recipe.yaml", "--max_prompt_length", 44)

    def test_the_tiny_world_is_a_data_set(self, run):
        assert "1,606 with calls, 442 without, 0 unreadable" in run("show", "tiny", *TINY, "--limit", "0")

    def test_shows_the_split_of_the_tiny_world_that_is_asked_for(self, run):
        out = run("show", "tiny", *TINY, "--split", "test", "--limit", "1")
        (row,) = (line for line in out.splitlines() if "tiny" in line and "│" in line)
        assert [cell.strip() for cell in row.split("│")][3] == str(TINY_EVAL_SIZE)
        held_out = load_tiny_dataset("test", size=1)
        assert held_out["solution"][0].strip() in out

    def test_reads_a_recipe_as_training_does(self, run, tmp_path, monkeypatch):
        given = {}
        prepare = loading.prepare_sources
        monkeypatch.setattr(
            loading, "prepare_sources", lambda *args, **kwargs: given.update(kwargs) or prepare(*args, **kwargs)
        )
        file = write(tmp_path / "a.jsonl", [XLAM])
        (tmp_path / "recipe.yaml").write_text(
            f"model_name_or_path: tiny\ndataset_name: {file}\nmask_tools: functions\nseed: '7'\nbf16: true\n"
            "chat_template_kwargs: '{\"enable_thinking\": false}'\ntrust_remote_code: 'false'\nan_sft_argument: 1\n"
        )
        run("show", "--config", tmp_path / "recipe.yaml")
        assert (given["mask_tools"], given["seed"]) == (["functions"], 7)
        assert given["chat_template_kwargs"] == {"enable_thinking": False}

    def test_gives_tools_the_names_that_they_have_in_training(self, run, tmp_path, tokenizer):
        file = write(tmp_path / "a.jsonl", [XLAM])
        (tmp_path / "recipe.yaml").write_text(f"model_name_or_path: tiny\ndataset_name: {file}\n")
        masks = ["functions", "parameters"]
        config = ResTGRPOConfig("out", use_cpu=True, bf16=False)
        rows = load_split(ResTScriptArguments(file, mask_tools=masks), config, tokenizer, "train")
        call = json.loads(re.search(r"<tool_call>\n(.*)\n", rows["solution"][0])[1])
        for source in ([file, *TINY], ["--config", tmp_path / "recipe.yaml"]):
            out = run("show", *source, "--mask_tools", *masks)
            assert f'"name": "{call["name"]}"' in out and f'"{next(iter(call["arguments"]))}"' in out

    def test_a_name_in_brackets_is_no_markup(self, run, tmp_path):
        file = write(tmp_path / "[bold]:bug:.jsonl", [{"prompt": "[/INST] a", "solution": "[b] c [/b]"}])
        out = run("show", file, *TINY)
        assert "[bold]:bug:.jsonl#0, step 0" in out and "[/INST] a" in out and "[b] c [/b]" in out

    def test_ctrl_c_is_one_line(self, run, monkeypatch, capsys):
        monkeypatch.setattr(loading, "prepare_sources", lambda *args, **kwargs: signal.raise_signal(signal.SIGINT))
        with pytest.raises(SystemExit) as error:
            run("show", "tiny", *TINY)
        assert error.value.code == 130
        assert capsys.readouterr().err.splitlines()[-1] == "rest-trl data: interrupted before it was done"

    def test_a_recipe_that_is_no_yaml_is_one_line(self, run, tmp_path):
        (tmp_path / "broken.yaml").write_text("seed: [1\nmodel: {")
        with pytest.raises(SystemExit, match=r"^rest-trl data: error: .*broken\.yaml") as error:
            run("show", "--config", tmp_path / "broken.yaml")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (
                ["tiny", *TINY, "--split", "dev"],
                "tiny has the splits 'train' and 'test', not 'dev'",
            ),
            (["tiny", *TINY, "--dataset_config", "small"], "tiny has no configurations"),
            (["x.jsonl", *TINY], "There is no file or directory x.jsonl"),
            ([*TINY], "give a data set, or a recipe"),
            (["tiny"], "give --model_name_or_path, or a recipe"),
            (["tiny", *TINY, "--mask_tools", "functions"], "tiny has prompts of text"),
            (["tiny", "--config", "none.yaml"], "none.yaml"),
        ],
    )
    def test_an_error_is_one_line(self, run, args, message):
        with pytest.raises(SystemExit) as error:
            run("show", *args)
        assert str(error.value).startswith("rest-trl data: error: ") and message in str(error.value)
        assert "\n" not in str(error.value)


class TestMix:
    def test_writes_training_and_test_rows_and_counts_them(self, run, tmp_path):
        toolace = [toolace_row(("user", f"Boat {n}?"), ("assistant", "[ferries()]")) for n in range(12)]
        files = write(tmp_path / "toolace.jsonl", toolace), write(tmp_path / "xlam.jsonl", map(query_row, range(20)))
        tests = write(tmp_path / "tests.json", [{"question": "Boat 3?"}])
        out = run(
            "mix", "--toolace", files[0], "--xlam", files[1], "--numbers", 8, 4, 4, "--test", 4,
            "--exclude", tests, "--output", tmp_path / "mixture" / "train.parquet",
        )  # fmt: skip
        cells = [[cell.strip() for cell in line.split("│")] for line in out.splitlines()]
        rows = {line[1]: line[3:-1] for line in cells if len(line) > 4}
        assert rows["toolace"] == ["12", "0", "0", "1", "8", "2"]
        assert rows["hammer"] == ["20", "0", "0", "0", "4", "1"]
        assert rows["xlam"] == ["20", "0", "5", "0", "4", "1"]
        sizes = {
            split: len(Dataset.from_parquet(str(tmp_path / "mixture" / f"{split}.parquet")))
            for split in ("train", "test")
        }
        assert sizes == {"train": 16, "test": 4}

    def test_a_path_in_brackets_is_printed_whole(self, run, tmp_path):
        file = write(tmp_path / "xlam.jsonl", map(query_row, range(20)))
        output = tmp_path / "[bold]" / "train.parquet"
        out = run("mix", "--xlam", file, "--numbers", 0, 0, 4, "--output", output)
        assert f"4 steps: {output}" in "".join(out.splitlines())

    def test_the_output_is_not_overwritten_by_the_test(self, run, tmp_path):
        with pytest.raises(SystemExit, match="give the output another name"):
            run("mix", "--test", 4, "--output", tmp_path / "test.parquet")


class TestBins:
    @pytest.mark.parametrize("values", [[5], [1, 1, 1], [0, 1000], list(range(37)), [3, 9, 9, 12, 700]])
    def test_every_value_lies_in_the_bin_that_counts_it(self, values):
        found = bins(values)
        assert len(found) <= 10
        assert [count for _, _, count in found] == [
            sum(first <= value <= last for value in values) for first, last, _ in found
        ]
        assert sum(count for _, _, count in found) == len(values)
