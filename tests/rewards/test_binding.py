from functools import partial

import pytest
import torch
from datasets import Dataset

from rest_trl.rewards import ToolCallReward
from rest_trl.rewards.binding import Binding, bind_rewards


DATASET = Dataset.from_dict({"prompt": ["a"], "solution": ["b"], "difficulty": [1]})
BINDING = Binding("hermes", lambda completion_ids: [], "static", 1, {})


class Shortest:
    def __call__(self, completions, **kwargs):
        return [-float(len(text)) for text in completions]


async def judged(prompts, completions, solution, **kwargs):
    return [0.0] * len(completions)


def weighed(completions, difficulty, factor, **kwargs):
    return [factor * value for value in difficulty]


def alone(completions):
    return [0.0] * len(completions)


class TestSignatures:
    @pytest.mark.parametrize("reward", [Shortest(), judged, partial(weighed, factor=2.0), torch.nn.Linear(1, 1), max])
    def test_that_fit_are_left_as_they_are(self, reward):
        assert bind_rewards([reward], [DATASET], BINDING) == [reward]

    @pytest.mark.parametrize(
        ("reward", "cause"),
        [
            (alone, "'alone' cannot be called as TRL does .*unexpected keyword argument 'prompts'.*: let it take"),
            (weighed, "'weighed' cannot be called as TRL does .*'factor'.*, of the columns .*'difficulty'"),
            (lambda completions, answer, **kwargs: [], "'<lambda>' cannot be called .*'answer'"),
        ],
    )
    def test_that_do_not_fit_are_refused_before_the_first_rollout(self, reward, cause):
        with pytest.raises(ValueError, match=cause):
            bind_rewards([reward], [DATASET], BINDING)

    def test_of_streamed_data_may_name_columns(self):
        streamed = DATASET.to_iterable_dataset().map(lambda row: row)
        streamed = streamed.map(lambda row: {**row, "answer": "b"})

        def compared(completions, answer, **kwargs): ...

        assert bind_rewards([compared], [streamed], BINDING) == [compared]
        with pytest.raises(ValueError, match="'alone' cannot be called"):
            bind_rewards([alone], [streamed], BINDING)

    def test_of_a_rollout_function_may_name_what_it_returns(self):
        def compared(completions, turn_scores, **kwargs): ...

        assert bind_rewards([compared], [DATASET], BINDING._replace(has_rollout_func=True)) == [compared]


class Credited(Shortest):
    """A reward with parts, which says where they are decided."""

    def segments(self, completion_ids, **kwargs):
        return [[] for _ in completion_ids]


class Narrow(Credited):
    def segments(self, completion_ids):
        return super().segments(completion_ids)


class Demanding(Credited):
    def segments(self, completion_ids, weights, **kwargs):
        return super().segments(completion_ids)


class Logging(Credited):
    """Credit is given after the metrics are logged, so `log_metric` is not passed."""

    def segments(self, completion_ids, log_metric, **kwargs):
        return super().segments(completion_ids)


class NarrowRule(ToolCallReward):
    def segments(self, completion_ids):
        return super().segments(completion_ids, [])


class TestSegments:
    def test_that_fit_are_left_as_they_are(self):
        reward = Credited()
        assert bind_rewards([reward], [DATASET], BINDING) == [reward]

    @pytest.mark.parametrize(
        ("reward", "cause"),
        [
            (Narrow(), "`segments` of the reward function 'Narrow' cannot be called .*unexpected keyword .*: let it"),
            (Demanding(), "`segments` of .*'Demanding' cannot be called .*'weights'.* of the columns .*'difficulty'"),
            (Logging(), "`segments` of .*'Logging' cannot be called .*'log_metric'"),
            (NarrowRule(), "`segments` of .*'tool_call_reward' cannot be called .*unexpected keyword"),
        ],
    )
    def test_that_do_not_fit_are_refused_before_the_first_rollout(self, reward, cause):
        with pytest.raises(ValueError, match=cause):
            bind_rewards([reward], [DATASET], BINDING)
