import json
import math

import pytest
import torch
from transformers import TrainerState

from rest_trl.regions.statistics import RegionStatistics
from rest_trl.tool_calls import Region


def update(statistics, **regions):
    """One optimiser step: `region=(tokens, mean entropy)`."""
    counts, entropy_sums = torch.zeros(len(Region)), torch.zeros(len(Region))
    for name, (count, entropy) in regions.items():
        counts[Region[name.upper()]], entropy_sums[Region[name.upper()]] = count, count * entropy
    statistics.update(counts, counts, entropy_sums)


def observed(statistics, region):
    return statistics.entropies[region], statistics.shares[region]


class TestUpdate:
    def test_takes_the_first_observation_in_full(self):
        statistics = RegionStatistics(0.9)
        update(statistics, format=(30, 0.5), reasoning=(10, 2.0))
        assert observed(statistics, Region.FORMAT) == pytest.approx((0.5, 0.75))
        assert observed(statistics, Region.REASONING) == pytest.approx((2.0, 0.25))
        assert math.isnan(statistics.entropies[Region.TOOL_NAME])
        assert statistics.shares[Region.TOOL_NAME] == 0

    def test_is_a_running_mean_of_the_means_of_the_steps(self):
        statistics = RegionStatistics(0.75)
        for tokens, entropy in ((10, 1.0), (1000, 2.0), (1, 4.0)):  # the number of tokens does not count
            update(statistics, format=(tokens, entropy))
        assert statistics.entropies[Region.FORMAT] == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4)

    def test_keeps_the_entropy_of_an_absent_region_and_lowers_its_share(self):
        statistics = RegionStatistics(0.9)
        update(statistics, format=(5, 0.5), tool_name=(5, 1.0))
        update(statistics, format=(10, 0.5))
        assert observed(statistics, Region.TOOL_NAME) == pytest.approx((1.0, 0.9 * 0.5))
        assert observed(statistics, Region.FORMAT) == pytest.approx((0.5, 0.9 * 0.5 + 0.1))

    def test_takes_the_first_observation_of_a_late_region_in_full(self):
        statistics = RegionStatistics(0.9)
        update(statistics, format=(10, 0.5))
        update(statistics, format=(5, 0.5), tool_name=(5, 1.0))
        assert observed(statistics, Region.TOOL_NAME) == pytest.approx((1.0, 0.1 * 0.5))

    def test_keeps_the_sum_of_shares_at_one(self):
        statistics = RegionStatistics(0.6)
        for step in range(1, 6):
            update(statistics, format=(step, 1.0), tool_name=(1, 1.0), response=(7 - step, 1.0))
            assert sum(statistics.shares) == pytest.approx(1)

    def test_ignores_a_step_without_tokens(self):
        statistics = RegionStatistics(0.9)
        update(statistics)
        assert statistics.shares == [0.0] * len(Region)
        update(statistics, format=(4, 0.5))
        before = statistics.state()
        update(statistics)
        assert statistics.state() == before

    def test_keeps_only_the_last_step_with_a_decay_of_zero(self):
        statistics = RegionStatistics(0.0)
        update(statistics, format=(1, 1.0))
        update(statistics, format=(1, 3.0))
        assert statistics.entropies[Region.FORMAT] == 3.0

    def test_gives_tensors(self):
        statistics = RegionStatistics(0.9)
        update(statistics, format=(1, 1.0))
        entropies, shares = statistics.tensors(torch.device("cpu"))
        assert entropies.shape == shares.shape == (len(Region),)
        assert entropies[Region.FORMAT] == shares[Region.FORMAT] == 1
        assert entropies.isnan().sum() == len(Region) - 1


class TestState:
    def test_survives_json(self):
        statistics = RegionStatistics(0.8)
        update(statistics, format=(3, 0.1), reasoning=(4, 1 / 3))
        state = json.loads(json.dumps(statistics.state(), allow_nan=False))
        assert state["attributes"]["observed"]["entropies"][Region.TOOL_NAME] is None
        restored = RegionStatistics.from_state(state)
        assert restored.decay == 0.8
        assert restored.state() == statistics.state()
        assert math.isnan(restored.entropies[Region.TOOL_NAME])

    def test_is_not_shared_with_the_statistics(self):
        statistics = RegionStatistics(0.8)
        state = statistics.state()
        update(statistics, format=(3, 0.1))
        assert state == RegionStatistics(0.8).state()

    def test_of_a_checkpoint_is_taken_over_when_training_begins(self):
        before = RegionStatistics(0.8)
        update(before, format=(3, 0.1))
        resumed = RegionStatistics(0.8)
        resumed.on_train_begin(
            None, TrainerState(stateful_callbacks={"RegionStatistics": json.loads(json.dumps(before.state()))}), None
        )
        assert resumed.state() == before.state()

    def test_stays_empty_without_a_checkpoint(self):
        statistics = RegionStatistics(0.8)
        statistics.on_train_begin(None, TrainerState(stateful_callbacks={}), None)
        assert statistics.state() == RegionStatistics(0.8).state()
