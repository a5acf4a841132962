import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState

from rest_trl.lab.study.seeds import HELD_OUT
from rest_trl.lab.study.worker import CommonRandomNumbers, step_table


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
            {"step": 1, HELD_OUT: 0.5},
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
        assert table[HELD_OUT].isna().tolist() == [False, True, True]

    def test_counts_what_was_sampled_where_completions_share_tokens(self):
        logs = [
            {"step": 1, "completions/mean_length": 10.0, "rest/generated_tokens": 50.0},
            {"step": 2, "loss": 0.5},
            {"step": 3, "completions/mean_length": 10.0, "rest/generated_tokens": 60.0},
        ]
        assert step_table(("arm", 4), logs, 8)["generated_tokens"].tolist() == [50, 50, 110]

    @pytest.mark.parametrize(
        ("micro_steps", "per_rollout", "rollouts", "tokens"),
        [(4, 1, [32, 64, 96], [320, 640, 960]), (3, 2, [16, 24, 40], [160, 240, 400]), (2, 2, [8, 16, 24], None)],
    )
    def test_counts_every_rollout_of_a_step(self, micro_steps, per_rollout, rollouts, tokens):
        # What is logged of a step is the mean over its rollouts.
        logs = [{"step": step, "completions/mean_length": 10.0, "rest/generated_tokens": 80.0} for step in (1, 2, 3)]
        table = step_table(("arm", 4), logs, 8, 4, micro_steps, per_rollout)
        assert table["rollouts"].tolist() == rollouts
        assert tokens is None or table["generated_tokens"].tolist() == tokens

    def test_counts_completions_of_groups_that_were_sampled_on_top(self):
        logs = [
            {"step": 1, "completions/mean_length": 10.0, "rest/groups/extra": 2.0},
            {"step": 2, "loss": 0.5},
            {"step": 3, "completions/mean_length": 10.0, "rest/groups/extra": 0.0},
        ]
        assert step_table(("arm", 4), logs, 8, group_size=4)["rollouts"].tolist() == [16, 16, 24]
        # Two rollouts in a step, of which one has sampled a group on top.
        logs = [{"step": 1, "completions/mean_length": 10.0, "rest/groups/extra": 0.5}]
        assert step_table(("arm", 4), logs, 8, 4, 2, 1)["rollouts"].tolist() == [20]
