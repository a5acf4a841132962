import logging
import sys
from types import SimpleNamespace

import pytest
from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback
from transformers.utils.notebook import NotebookProgressCallback

from rest_trl.runs.notebook import NotebookProgress
from rest_trl.runs.progress import BarProgress, LineProgress, show_progress, summary


LOGS = {
    "loss": 0.0,
    "reward": 1.5,
    "rest/reward/exact_with_calls": 0.25,
    "entropy": 0.331,
    "step_time": 0.84,
    "epoch": 1.0,
}


@pytest.fixture
def state():
    PartialState()
    return SimpleNamespace(global_step=0, max_steps=4, is_world_process_zero=True)


class TestSummary:
    def test_leaves_out_what_a_log_lacks(self):
        assert summary(LOGS) == "reward 1.50, exact 0.25, entropy 0.33, 0.8 s/step"
        assert summary({"epoch": 1.0}) == ""

    def test_reads_an_evaluation(self):
        assert summary({f"eval_{name}": value for name, value in LOGS.items()}).startswith("reward 1.50, exact 0.25")


class TestLineProgress:
    def test_writes_a_line_per_log(self, state, caplog):
        callback = LineProgress()
        with caplog.at_level(logging.INFO, "rest_trl"):
            callback.on_train_begin(None, state, None)
            state.global_step = 1
            callback.on_log(None, state, None, logs=dict(LOGS))
            callback.on_log(None, state, None, logs={"eval_reward": 2.0})
            callback.on_log(None, state, None, logs={"epoch": 1.0})
            callback.on_log(None, state, None, logs={"train_runtime": 12.3, "train_loss": 0.0})
        step, evaluation, end = (record.message.removeprefix("[RANK 0] ") for record in caplog.records)
        assert step == "step 1/4: reward 1.50, exact 0.25, entropy 0.33, 0.8 s/step, 0 s left"
        assert evaluation == "evaluation after step 1: reward 2.00"
        assert end == "trained 1 steps in 12 s"


class TestBarProgress:
    def test_shows_figures_behind_the_bar_and_leaves_the_log_alone(self, state, capsys):
        callback, logs = BarProgress(), dict(LOGS)
        callback.on_train_begin(None, state, None)
        callback.on_log(None, state, None, logs=logs)
        assert callback.training_bar.postfix == "reward 1.50, exact 0.25, entropy 0.33, 0.8 s/step"
        callback.on_log(None, state, None, logs={"eval_reward": 2.0})
        callback.on_train_end(None, state, None)
        captured = capsys.readouterr()
        assert "evaluation after step 0: reward 2.00\n" in captured.err and not captured.out
        assert logs == LOGS


class TestShowProgress:
    @pytest.mark.parametrize(
        ("default", "is_terminal", "expected"),
        [
            (ProgressCallback, True, BarProgress),
            (ProgressCallback, False, LineProgress),
            (PrinterCallback, True, LineProgress),  # disable_tqdm
            (NotebookProgressCallback, False, NotebookProgress),
            (None, True, None),
        ],
    )
    def test_replaces_what_the_trainer_shows(self, monkeypatch, default, is_terminal, expected):
        added = []
        trainer = SimpleNamespace(
            pop_callback=lambda kind: kind if kind is default else None, add_callback=added.append
        )
        monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
        monkeypatch.setattr("rest_trl.runs.progress.is_in_notebook", lambda: default is NotebookProgressCallback)
        show_progress(trainer)
        assert added == [expected] * (expected is not None)
