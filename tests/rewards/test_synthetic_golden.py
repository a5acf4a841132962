"""The rewards against a plain statement of the released rules, on synthetic completions of every kind of damage."""

import gzip
import json
from collections import Counter

import pytest
from synthetic.golden import DAMAGES, REWARD_STEPS, golden_rows
from synthetic.released import ReleasedCodeRaises, call_share, layout_is_right, released_reward
from synthetic.rlla import sft_rows

from rest_trl.rewards import call_score, follows_layout, reward_bounds
from rest_trl.tool_calls import get_syntax


PARSE = get_syntax("rlla").parse


@pytest.fixture(scope="module")
def golden(paper_data):
    with gzip.open(paper_data / "golden" / "released_golden.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def our_reward(completion, gold, step):
    """Layout and correctness by the pure functions that the reward functions are made of."""
    parsed, parsed_gold = PARSE(completion), PARSE(gold)
    bounds = reward_bounds("static" if step is None else "released", step or 0, 1000)
    follows = follows_layout(parsed, parsed_gold, "rlla")
    correctness = 0.0
    if parsed_gold.calls:
        share = call_score(parsed.calls, parsed_gold.calls)
        correctness = bounds.correctness_min + (bounds.correctness_max - bounds.correctness_min) * share
    return bounds.layout_max if follows else bounds.layout_min, correctness


class TestReleasedReward:
    """The statement of the released rules that the other tests rely on."""

    def test_gives_every_reward_of_the_real_rows(self, shared_data):
        with gzip.open(shared_data / "golden" / "released_golden.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        for row in rows:
            for column, step in REWARD_STEPS.items():
                if "error" in row[column]:
                    with pytest.raises(ReleasedCodeRaises):
                        released_reward(row["completion"], row["answer"], step)
                else:
                    found = released_reward(row["completion"], row["answer"], step)
                    assert found == pytest.approx(row[column], abs=1e-9), row["id"]

    def test_scores_calls_as_by_hand(self):
        gold = [{"name": "f", "parameters": {"a": 1, "b": 2}}]
        renamed = [{"name": "f", "parameters": {"a": 1, "c": 2}}]
        assert call_share(gold, gold) == 1
        # The name gives 1, one of three parameter names 1/3, one equal value 1; there are 4 points to have.
        assert call_share(renamed, gold) == pytest.approx((1 + 1 / 3 + 1) / 4)
        assert call_share([{"name": "g", "parameters": {}}], gold) == 0
        # One of two names agrees, and the call itself is right.
        assert call_share([*gold, {"name": "g", "parameters": {}}], gold) == pytest.approx((1 / 2 + 1 + 2) / 4)

    @pytest.mark.parametrize(
        ("completion", "gold", "right"),
        [
            ("<think>a</think><tool_call>b</tool_call>", "<tool_call>", True),
            ("<tool_call>b</tool_call><think>a</think>", "<tool_call>", False),
            ("<think>a</think><tool_call>b</tool_call><response>c</response>", "<tool_call>", False),
            ("<think>a</think><response>c</response><tool_call>", "<response>", True),
            ("<think>a</think>", "", True),
        ],
    )
    def test_checks_the_layout_as_by_hand(self, completion, gold, right):
        assert layout_is_right(completion, gold) is right


class TestGolden:
    def test_has_every_kind_of_damage_and_every_kind_of_gold(self, golden):
        assert {row["kind"] for row in golden} == DAMAGES.keys()
        golds = Counter(
            ("<tool_call>" in row["answer"], "<response>" in row["answer"], "error" in row["reward_static"])
            for row in golden
        )
        assert golds == {
            (True, False, False): 331,
            (False, True, False): 49,
            (True, False, True): 15,
            (True, True, True): 5,
        }

    @pytest.mark.parametrize("column", REWARD_STEPS)
    def test_rewards_are_the_released_ones(self, golden, column):
        rows = [row for row in golden if "error" not in row[column]]
        assert len(rows) == 380
        for row in rows:
            layout, correctness = our_reward(row["completion"], row["answer"], REWARD_STEPS[column])
            assert layout == pytest.approx(row[column]["format"], abs=1e-6), row["id"]
            assert correctness == pytest.approx(row[column]["correctness"], abs=1e-6), row["id"]

    def test_every_gold_answer_earns_the_maximum(self, golden):
        for row in golden:
            # The last tag tells calls from text for the user: reasoning may quote the tags.
            calls = row["answer"].rpartition("</think>")[2].count("<tool_call>")
            assert our_reward(row["answer"], row["answer"], None) == (1.0, 3.0 if calls else 0.0)

    def test_rows_on_which_the_released_code_raises_are_rewarded(self, golden):
        rows = [row for row in golden if "error" in row["reward_static"]]
        assert len(rows) == 20
        for row in rows:
            layout, correctness = our_reward(row["completion"], row["answer"], None)
            assert layout in (0.0, 1.0) and -3.0 <= correctness <= 3.0


class TestQuotedTags:
    def test_change_no_reward(self):
        """Where the released code raises, the reward is what it gives to the same row without the quotation."""
        quotation, plain = "My call belongs between <tool_call> and </tool_call>.", "My call comes next."
        rows = golden_rows([row["output"] for row in sft_rows()])
        checked = 0
        for row in rows:
            if quotation in row["answer"] and row["kind"] not in ("truncated", "no_think_close"):
                texts = [row[key].replace(quotation, plain) for key in ("completion", "answer")]
                released = released_reward(*texts, None)
                found = our_reward(row["completion"], row["answer"], None)
                assert found == pytest.approx((released["format"], released["correctness"])), row["kind"]
                checked += 1
        assert checked >= 15
