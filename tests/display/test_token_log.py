import logging
from types import SimpleNamespace

import pandas
import pytest
import torch
from accelerate import PartialState

from rest_trl.lab.display.completion_files import tokens_path
from rest_trl.lab.display.token_log import TokenLog
from rest_trl.regions.token_bytes import TokenBytes


PartialState()  # accelerate gathers and logs with it
IDS = torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
PARTS = torch.tensor([[4, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.int8)
ADVANTAGES = torch.tensor([0.5, -0.5])
COEFFICIENTS = torch.tensor([[1.5, 0.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0]])
ROWS = [{"solution": "gold"}, {}]
CUT = [True, False]


@pytest.fixture
def log(tmp_path, tokenizer):
    return TokenLog(SimpleNamespace(output_dir=str(tmp_path), generation_batch_size=3), TokenBytes(tokenizer, []))


def batch(advantages, ids=IDS):
    return {"completion_ids": ids, "completion_mask": MASK, "part_ids": PARTS, "advantages": advantages}


def write(log, step=10, main=True):
    log.on_log(None, SimpleNamespace(global_step=step, is_world_process_zero=main), None)


class TestTokenLog:
    def test_stores_the_tokens_without_padding(self, log, tmp_path):
        log.add(batch(ADVANTAGES), COEFFICIENTS, [{}, {}], ROWS, CUT)
        write(log)
        table = pandas.read_parquet(tokens_path(tmp_path / "completions" / "completions_00010.parquet"))
        assert [list(row) for row in table["completion_ids"]] == [[5, 6, 7], [8]]
        assert [list(row) for row in table["part_ids"]] == [[4, 0, 1], [1]]
        assert [list(row) for row in table["coefficients"]] == [[1.5, 0.0, 0.5], [1.0]]

    def test_stores_the_golds(self, log, tmp_path):
        log.add(batch(ADVANTAGES), COEFFICIENTS, [{}, {}], ROWS, CUT)
        write(log)
        table = pandas.read_parquet(tokens_path(tmp_path / "completions" / "completions_00010.parquet"))
        assert table["solution"][0] == "gold" and pandas.isna(table["solution"][1])
        assert list(table["truncated"]) == CUT

    def test_stores_golds_with_alternatives_of_several_types(self, log, tmp_path):
        golds = [{"text": "gold", "alternatives": [{"a": [1, "1"]}]}, {"text": "other", "alternatives": None}]
        rows = [{"solution": gold, "tools": [{"name": "f"}]} for gold in golds]
        log.add(batch(ADVANTAGES), COEFFICIENTS, [{}, {}], rows, CUT)
        write(log)
        table = pandas.read_parquet(tokens_path(tmp_path / "completions" / "completions_00010.parquet"))
        assert table["solution"][0] == {"text": "gold", "alternatives": '[{"a": [1, "1"]}]'}
        assert list(table["tools"]) == ['[{"name": "f"}]'] * 2

    def test_stores_that_coefficients_are_not_known(self, log, tmp_path):
        log.add(batch(ADVANTAGES), None, [{}, {}], ROWS, CUT)
        write(log)
        table = pandas.read_parquet(tmp_path / "completion_tokens" / "completion_tokens_00010.parquet")
        assert table["coefficients"].isna().all() and len(table) == 2

    def test_stores_what_is_of_turns(self, log, tmp_path):
        log.add(batch(2 * COEFFICIENTS), None, [{"f": [1.0, 0.5]}, {}], ROWS, CUT)
        write(log)
        table = pandas.read_parquet(tmp_path / "completion_tokens" / "completion_tokens_00010.parquet")
        assert [list(row) for row in table["advantages"]] == [[3.0, 0.0, 1.0], [2.0]]
        assert table["turn_rewards"][0] == '{"f": [1.0, 0.5]}' and pandas.isna(table["turn_rewards"][1])

    def test_stores_no_advantage_that_is_of_all_tokens(self, log, tmp_path):
        log.add(batch(ADVANTAGES), COEFFICIENTS, [{}, {}], ROWS, CUT)
        write(log)
        table = pandas.read_parquet(tmp_path / "completion_tokens" / "completion_tokens_00010.parquet")
        assert table["advantages"].isna().all() and table["turn_rewards"].isna().all()

    def test_keeps_the_rows_that_trl_keeps(self, log, tmp_path):
        for number in range(3):
            log.add(batch(ADVANTAGES, IDS + number), None, [{}, {}], ROWS, CUT)
        write(log)
        table = pandas.read_parquet(tmp_path / "completion_tokens" / "completion_tokens_00010.parquet")
        assert [row[0] for row in table["completion_ids"]] == [9, 7, 10]

    def test_writes_on_the_main_process_and_only_rows(self, log, tmp_path):
        write(log)
        log.add(batch(ADVANTAGES), None, [{}, {}], ROWS, CUT)
        write(log, main=False)
        assert not (tmp_path / "completion_tokens").exists()

    def test_does_not_end_the_run_if_it_cannot_write(self, log, tmp_path, caplog):
        (tmp_path / "completion_tokens").write_text("a file")
        log.add(batch(ADVANTAGES), None, [{}, {}], ROWS, CUT)
        with caplog.at_level(logging.WARNING):
            write(log)
        assert "goes on without it: FileExistsError" in caplog.text
