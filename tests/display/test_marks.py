import json

import pandas
import pytest
import torch
from transformers import AutoTokenizer

from rest_trl.lab.display.colors import COLORS
from rest_trl.lab.display.completion_files import read_completions
from rest_trl.lab.display.token_log import mark_regions
from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.regions.partition import partition
from rest_trl.regions.token_bytes import TokenBytes
from rest_trl.tool_calls import Region
from rest_trl.train import main


COMPLETION = (
    '<think>\nfünf 🌍\n</think>\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ōsaka"}}\n</tool_call>'
)
RUN = {
    "model_name_or_path": "tiny",
    "dataset_name": "tiny",
    "max_steps": 2,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 64,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}


def mark(completion_ids, region_ids, tokenizer, mask=None):
    ids = torch.tensor([completion_ids])
    mask = torch.ones_like(ids) if mask is None else torch.tensor([mask])
    return mark_regions(ids, mask, torch.tensor([region_ids]), TokenBytes(tokenizer, ["<tool_call>"]))[0]


def spans(marked):
    """Region and text of every run."""
    regions = {colors.square: region for region, colors in COLORS.items()}
    found = []
    for character in marked:
        if character in regions:
            found.append([regions[character], ""])
        else:
            found[-1][1] += character
    return found


def unmarked(marked):
    return "".join(text for _, text in spans(marked))


class TestMarkRegions:
    def test_is_the_text_with_its_regions(self, tokenizer):
        ids = tokenizer(COMPLETION)["input_ids"]
        regions = partition(torch.tensor([ids]), tokenizer, "hermes", torch.ones(1, len(ids)))[0].tolist()
        marked = mark(ids, regions, tokenizer)
        assert unmarked(marked) == COMPLETION
        assert (Region.TOOL_NAME, "get_weather") in [(region, text.strip('"')) for region, text in spans(marked)]
        changes = [region for i, region in enumerate(regions) if i == 0 or region != regions[i - 1]]
        assert [region for region, _ in spans(marked)] == changes

    def test_leaves_out_padding_and_end_of_turn(self, tokenizer):
        ids = tokenizer("ab")["input_ids"] + [tokenizer.eos_token_id, tokenizer.pad_token_id]
        n = len(ids)
        marked = mark(ids, [Region.RESPONSE] * (n - 2) + [Region.FORMAT, 0], tokenizer, [1] * (n - 1) + [0])
        assert marked == COLORS[Region.RESPONSE].square + "ab"

    def test_shows_what_came_from_tools(self, tokenizer):
        first, second = tokenizer("ab")["input_ids"], tokenizer("cd")["input_ids"]
        regions = [Region.RESPONSE] * len(first) + [Region.NONE] * len(second)
        assert spans(mark(first + second, regions, tokenizer)) == [[Region.RESPONSE, "ab"], [Region.NONE, "cd"]]

    def test_keeps_characters_whole(self, tokenizer):
        ids = tokenizer("🌍")["input_ids"]
        assert len(ids) == 4  # bytes
        assert mark(ids, [4, 4, 5, 5], tokenizer) == COLORS[Region.RESPONSE].square + "🌍"
        assert mark(ids[:2], [4, 4], tokenizer).endswith("\N{REPLACEMENT CHARACTER}")

    def test_takes_empty_completions(self, tokenizer):
        assert mark([tokenizer.pad_token_id], [0], tokenizer, [0]) == ""


class TestLoggedTable:
    def check(self, table):
        """The column is of the row's own completion, and its regions are those of the partition."""
        tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
        for row in table.itertuples():
            assert unmarked(row.regions) == row.completion
            ids = torch.tensor([tokenizer(row.completion)["input_ids"]])
            regions = partition(ids, tokenizer, "hermes", torch.ones_like(ids))
            assert row.regions == mark_regions(ids, torch.ones_like(ids), regions, TokenBytes(tokenizer, []))[0]

    def test_has_the_column(self, tmp_path, capsys):
        arguments = RUN | {"output_dir": tmp_path, "log_completions": True, "num_completions_to_print": 4}
        main([text for name, value in arguments.items() for text in (f"--{name}", str(value))])
        table = pandas.read_parquet(tmp_path / "completions" / "completions_00002.parquet")
        assert len(table) == 4 and table["completion"].nunique() > 1
        self.check(table)
        assert "regions" in capsys.readouterr().out
        tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
        path = tmp_path / "completions" / "completions_00002.parquet"
        read = read_completions(path, tokenizer, 4)
        assert [tokenizer.decode(item.completion_ids, skip_special_tokens=True) for item in read] == list(
            table["completion"]
        )

    def test_has_the_rows_of_all_ranks_in_order(self, tmp_path, fork_server):
        arguments = RUN | {"output_dir": tmp_path, "log_completions": True, "ddp_backend": "gloo"}
        words = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
        fork_server.run("-m", "rest_trl.train", *words, ranks=2)
        table = pandas.read_parquet(tmp_path / "completions" / "completions_00002.parquet")
        assert len(table) == 8  # 4 of each rank
        tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
        stored = read_completions(tmp_path / "completions" / "completions_00002.parquet", tokenizer, 8)
        texts = [tokenizer.decode(item.completion_ids, skip_special_tokens=True) for item in stored]
        assert texts == list(table["completion"]) and all(item.coefficients for item in stored)
        assert table["completion"].nunique() > 2
        self.check(table)

    def test_is_not_printed_unless_that_is_asked_for(self, tmp_path, capsys):
        arguments = RUN | {"output_dir": tmp_path, "log_completions": True}
        main([text for name, value in arguments.items() for text in (f"--{name}", str(value))])
        assert (tmp_path / "completions" / "completions_00002.parquet").exists()
        assert "completion" not in capsys.readouterr().out

    def test_costs_nothing_if_it_is_off(self, tmp_path, monkeypatch):
        monkeypatch.setattr("rest_trl.lab.display.token_log.mark_regions", pytest.fail)
        arguments = RUN | {"output_dir": tmp_path, "max_steps": 1}
        main([text for name, value in arguments.items() for text in (f"--{name}", str(value))])
        assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 1
