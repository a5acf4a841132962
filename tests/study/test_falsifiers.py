from collections import Counter

import pytest
from transformers import AutoTokenizer, TrainerState

from rest_trl.lab.study.falsifiers import ShuffledPartsReward, ShuffledStatusReward
from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.regions import Partitioner
from rest_trl.rewards import ToolCallReward
from rest_trl.tool_calls import get_syntax


GOLD = '<tool_call>\n{"name": "book", "arguments": {"city": "Rome", "day": 3, "seats": 2}}\n</tool_call>'
# Two groups of three completions; in each one says more than the others, and one is wrong here and there.
COMPLETIONS = [
    GOLD,
    GOLD.replace("Rome", "Bonn"),
    GOLD.replace(', "seats": 2', ""),
    GOLD.replace('"day": 3', '"day": 4'),
    GOLD + "\n" + GOLD,
    "no call",
]
PROMPTS = ["first"] * 3 + ["second"] * 3


@pytest.fixture(scope="module")
def tiny_tokenizer():
    return AutoTokenizer.from_pretrained(TINY_MODEL_DIR)


def segments(reward_class, tokenizer, step=0):
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in COMPLETIONS]
    partitioner = Partitioner(tokenizer, get_syntax("hermes"))
    reward = reward_class().bind("hermes", lambda ids: partitioner.read_lists(ids).turns, "static", 1)
    return reward.segments(
        completion_ids=ids,
        solution=[GOLD] * len(ids),
        trainer_state=TrainerState(global_step=step, max_steps=50),
        prompt=PROMPTS,
        completions=COMPLETIONS,
    )


def states(group):
    return Counter(segment.state for of_completion in group for segment in of_completion)


class TestShuffledStatuses:
    def test_are_those_of_the_group_each_once_in_a_completion(self, tiny_tokenizer):
        true, shuffled = (segments(kind, tiny_tokenizer) for kind in (ToolCallReward, ShuffledStatusReward))
        assert true != shuffled
        for rows in (slice(0, 3), slice(3, 6)):
            assert states(true[rows]) == states(shuffled[rows])
        for of_completion in shuffled:
            assert len({segment.state for segment in of_completion}) == len(of_completion)

    def test_leave_tokens_and_parts_alone(self, tiny_tokenizer):
        true, shuffled = (segments(kind, tiny_tokenizer) for kind in (ToolCallReward, ShuffledStatusReward))
        assert [[segment._replace(state=None) for segment in row] for row in true] == [
            [segment._replace(state=None) for segment in row] for row in shuffled
        ]

    def test_are_mostly_others(self, tiny_tokenizer):
        true = segments(ToolCallReward, tiny_tokenizer)
        kept = total = 0
        for step in range(20):
            for row, other in zip(true, segments(ShuffledStatusReward, tiny_tokenizer, step), strict=True):
                kept += sum(one.state == two.state for one, two in zip(row, other, strict=True))
                total += len(row)
        # Six states or more in a completion: each segment keeps its own once in six times, or less often.
        assert kept / total < 0.25

    def test_depend_on_the_step_alone(self, tiny_tokenizer):
        first, second = (segments(ShuffledStatusReward, tiny_tokenizer, step=1) for _ in range(2))
        assert first == second != segments(ShuffledStatusReward, tiny_tokenizer, step=2)


class TestShuffledParts:
    def test_keep_their_sum_and_their_states(self, tiny_tokenizer):
        true, shuffled = (segments(kind, tiny_tokenizer) for kind in (ToolCallReward, ShuffledPartsReward))
        assert true != shuffled
        for row, other in zip(true, shuffled, strict=True):
            assert Counter(segment.part for segment in row) == Counter(segment.part for segment in other)
            assert [segment[:3] for segment in row] == [segment[:3] for segment in other]

    def test_are_decided_one_after_the_other(self, tiny_tokenizer):
        for row in segments(ShuffledPartsReward, tiny_tokenizer):
            decided = 0.0
            for segment in row:
                assert segment.decided == pytest.approx(decided)
                decided += segment.part


@pytest.mark.parametrize("kind", [ShuffledStatusReward, ShuffledPartsReward])
def test_rewards_are_the_true_ones(kind, tiny_tokenizer):
    ids = [tiny_tokenizer.encode(text, add_special_tokens=False) for text in COMPLETIONS]
    partitioner = Partitioner(tiny_tokenizer, get_syntax("hermes"))
    rewards = [
        made.bind("hermes", lambda ids: partitioner.read_lists(ids).turns, "static", 1)(
            completions=COMPLETIONS, completion_ids=ids, solution=[GOLD] * len(ids)
        )
        for made in (ToolCallReward(), kind())
    ]
    assert rewards[0] == rewards[1] and len(set(rewards[0])) > 2
