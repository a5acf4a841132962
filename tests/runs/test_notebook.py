from types import SimpleNamespace

import pytest

from rest_trl.runs.notebook import NotebookProgress


LOGS = {"loss": 0.0, "reward": 1.5, "rest/reward/exact": 0.25, "entropy": 0.331, "completions/mean_length": 84.4}


@pytest.fixture
def state():
    return SimpleNamespace(global_step=0, max_steps=4, epoch=0.5, num_train_epochs=1)


class TestNotebookProgress:
    def test_shows_a_row_per_log_without_the_loss(self, state, capsys):
        callback, args = NotebookProgress(), SimpleNamespace(eval_strategy="no")
        callback.on_train_begin(args, state, None)
        for step in (1, 2):
            state.global_step = step
            callback.on_log(args, state, None, logs=LOGS | {"reward": float(step)})
        callback.on_log(args, state, None, logs={"train_runtime": 12.3, "train_loss": 0.0})
        header, *rows = callback.training_tracker.inner_table
        assert header == ["Step", "Reward", "Exact", "Entropy (nats)", "Tokens"]
        assert rows == [[1, "1.00", "0.25", "0.33", "84"], [2, "2.00", "0.25", "0.33", "84"]]

    def test_puts_an_evaluation_beside_the_step_after_which_it_was(self, state, capsys):
        callback, args = NotebookProgress(), SimpleNamespace(eval_strategy="steps")
        callback.on_train_begin(args, state, None)
        state.global_step = 1
        callback.on_log(args, state, None, logs={"reward": 1.0})
        callback.on_log(args, state, None, logs={"eval_reward": 2.0, "eval_runtime": 3.0})
        callback.on_evaluate(args, state, None, metrics={"eval_reward": 2.0, "eval_runtime": 3.0})
        header, *rows = callback.training_tracker.inner_table
        assert header == ["Step", "Reward", "Held-out reward"]
        assert rows == [[1, "1.00", "2.00"]]
        state.global_step = 2
        callback.on_log(args, state, None, logs={"reward": 3.0})
        assert callback.training_tracker.inner_table[-1] == [2, "3.00", "No Log"]

    def test_shows_nothing_of_an_evaluation_outside_a_training(self, state, capsys):
        NotebookProgress().on_evaluate(None, state, None, metrics={"eval_reward": 2.0})
        assert not capsys.readouterr().out
