import pytest
import torch
from gold.test_teacher import CALL, GOLD, batch, make  # noqa: F401

from rest_trl.lab.study.gold_arms import MaxRLReward
from rest_trl.rewards import get_reward_func


PATH = "rest_trl.lab.study.gold_arms."


def test_equal_weights_teach_every_gold_call_and_no_reasoning(make):  # noqa: F811
    output, plain = batch(make(gold_variant=PATH + "EqualWeights")), batch(make(gold_weight=0.0))
    assert output["gold_advantages"].flatten().tolist() == pytest.approx([1.0] * 3 + [0.0] * 5)
    assert torch.equal(output["advantages"], plain["advantages"].unsqueeze(1).expand_as(output["advantages"]))


def test_whole_golds_follow_the_prompt(make, tokenizer):  # noqa: F811
    output = batch(make(gold_variant=PATH + "WholeGolds"))
    assert output["gold_prefix_lengths"].eq(0).all()
    assert output["gold_advantages"].flatten().tolist() == pytest.approx([1.0] * 4 + [0.0] * 4)
    assert tokenizer.decode(output["gold_ids"][3, 0][output["gold_mask"][3, 0].bool()]) == GOLD + tokenizer.eos_token


def test_the_gold_of_another_prompt_is_that_of_the_next_group(make):  # noqa: F811
    output = batch(make(gold_variant=PATH + "GoldOfAnotherPrompt"))
    assert output["gold_mask"].any(2).any(1).tolist() == [False] * 4 + [True] * 4


def test_maxrl_divides_by_the_share_of_exact_completions():
    reward = MaxRLReward("hermes")
    rewards = reward(
        completions=[GOLD, CALL, GOLD.replace("Paris", "Rome"), "no", "no", "no"],
        prompts=["a"] * 4 + ["b"] * 2,
        solution=[GOLD] * 6,
    )
    assert rewards == [1.0, 1.0, -1.0, -1.0, 0.0, 0.0]
    answer = "<think>\n</think> no"
    assert reward(completions=[answer, GOLD], prompts=["a"] * 2, solution=[answer] * 2) == [1.0, -1.0]
    assert isinstance(get_reward_func(PATH + "MaxRLReward"), MaxRLReward)
