import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerControl, TrainerState

from rest_trl.study.held_out import METRIC, HeldOut
from rest_trl.study.run import CommonRandomNumbers, step_table
from rest_trl.tiny import TINY_MODEL_DIR, load_tiny_dataset


def drawn():
    return random.random(), float(np.random.rand()), float(torch.rand(1))


class TestCommonRandomNumbers:
    def begin(self, seed, step):
        CommonRandomNumbers().on_step_begin(
            SimpleNamespace(seed=seed), TrainerState(global_step=step), TrainerControl()
        )
        return drawn()

    def test_depend_on_seed_and_step_whatever_was_drawn_before(self):
        first = self.begin(3, 7)
        torch.rand(100)
        assert self.begin(3, 7) == first
        assert len({first, self.begin(3, 8), self.begin(4, 7)}) == 3


class TestStepTable:
    def test_counts_rollouts_and_their_tokens(self):
        logs = [
            {"step": 1, "completions/mean_length": 10.5, "loss": 1.0},
            {"step": 1, METRIC: 0.5},
            {"step": 2, "loss": 0.5},  # trains on the rollouts of step 1
            {"step": 3, "completions/mean_length": 20.0, "loss": 0.25},
            {"step": 3, "train_runtime": 1.0},
        ]
        table = step_table(("arm", 4), logs, 8)
        assert table[["step", "rollouts", "generated_tokens"]].to_numpy().tolist() == [
            [1, 8, 84],
            [2, 8, 84],
            [3, 16, 244],
        ]
        assert set(table["arm"]) == {"arm"} and set(table["seed"]) == {4}
        assert table["loss"].tolist() == [1.0, 0.5, 0.25]
        assert table[METRIC].isna().tolist() == [False, True, True]

    def test_counts_what_was_sampled_where_completions_share_tokens(self):
        logs = [
            {"step": 1, "completions/mean_length": 10.0, "rest/generated_tokens": 50.0},
            {"step": 2, "loss": 0.5},
            {"step": 3, "completions/mean_length": 10.0, "rest/generated_tokens": 60.0},
        ]
        assert step_table(("arm", 4), logs, 8)["generated_tokens"].tolist() == [50, 50, 110]


@pytest.fixture(scope="module")
def trainer():
    return SimpleNamespace(
        model=AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR),
        processing_class=AutoTokenizer.from_pretrained(TINY_MODEL_DIR, padding_side="left"),
        tool_call_syntax="hermes",
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        args=SimpleNamespace(generation_batch_size=16, max_completion_length=64),
    )


class TestHeldOut:
    def test_is_the_same_every_time_and_leaves_the_random_state_alone(self, trainer):
        held_out = HeldOut(trainer, load_tiny_dataset("test", 24), 2)
        torch.manual_seed(0)
        expected = torch.rand(3).tolist()
        torch.manual_seed(0)
        first = held_out.measure()
        assert torch.rand(3).tolist() == expected
        assert held_out.measure() == first and 0 < first < 1

    def test_is_measured_evenly_and_at_the_end(self, trainer, monkeypatch):
        held_out = HeldOut(trainer, load_tiny_dataset("test", 4), 2)
        monkeypatch.setattr(held_out, "measure", lambda: 0.5)
        state = TrainerState(max_steps=5)
        for step in range(1, 6):
            state.global_step = step
            held_out.on_step_end(SimpleNamespace(), state, TrainerControl())
        assert state.log_history == [{"step": 2, METRIC: 0.5}, {"step": 5, METRIC: 0.5}]

    def test_refuses_messages(self, trainer):
        rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "hi"}], "solution": ""}])
        with pytest.raises(ValueError, match="messages, not text"):
            HeldOut(trainer, rows, 1)
