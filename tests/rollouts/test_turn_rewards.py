"""Rewards of turns from reward functions and environments, in TRL's own loop with scripted completions."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
from test_native_tools import CALL, GOLD, OTHER, make_trainer, roll_out

from rest_trl.credit.turn_rewards import UserFunctionError, naming_function, with_turns
from rest_trl.rewards import LayoutReward


TWO_CALLS = f"{CALL}\n{OTHER}"
ANSWER = "It is sunny."
# Of three turns, of two, of one, and of two of which the last is cut off.
SCRIPT = ([GOLD, OTHER, ANSWER], [OTHER, ANSWER], [ANSWER], [GOLD, CALL[:30]])
TURNS = [[1.0, 0.5, 2.0], [0.0, 3.0], [1.0], [1.0, 0.0]]


def turn_trainer(path, script=SCRIPT, rewards=TURNS, **config):
    def given(completions, **kwargs):
        return rewards

    defaults = {"credit": "turn", "scale_rewards": "none", "coefficients": "uniform"}
    return make_trainer(path, script, defaults | config, reward_funcs=given)


def turn_advantages(trainer, output):
    """The advantages of every turn of every completion; all tokens of a turn have the same."""
    turns = trainer.reader.turns([ids[: sum(m)] for ids, m in masked(output)])
    found = []
    for row, of_completion in zip(output["advantages"], turns, strict=True):
        spans = [row[turn.column : turn.column + len(turn.token_starts)] for turn in of_completion]
        assert all(span.unique().numel() == 1 for span in spans)
        found.append([span[0].item() for span in spans])
    return found


def masked(output):
    return zip(output["completion_ids"].tolist(), output["completion_mask"].tolist(), strict=True)


class TestReturnsOfTurns:
    def test_are_compared_with_those_of_the_others_that_reach_the_turn(self, tmp_path):
        trainer = turn_trainer(tmp_path)
        output = roll_out(trainer, 4)
        first, second, third, fourth = turn_advantages(trainer, output)
        # Sums 3.5, 3, 1 and 1; all have a first turn, so it is GRPO's with the others as baseline.
        assert [turns[0] for turns in (first, second, third, fourth)] == pytest.approx(
            [3.5 - 5 / 3, 3 - 5.5 / 3, 1 - 7.5 / 3, 1 - 7.5 / 3]
        )
        # Second turns: 2.5 after 1, 3 after 0, 0 after 1. The mean of all others, less what is decided, counts twice.
        assert first[1] == pytest.approx(2.5 - (2 * (5 / 3 - 1) + 3 + 0) / 4)
        assert second[1] == pytest.approx(3 - (2 * (5.5 / 3 - 0) + 2.5 + 0) / 4)
        assert fourth[1] == pytest.approx(0 - (2 * (7.5 / 3 - 1) + 2.5 + 3) / 4)
        # Alone in its third turn: the advantage of the whole completion.
        assert first[2] == pytest.approx(first[0])

    def test_are_logged_as_their_sums(self, tmp_path):
        trainer = turn_trainer(tmp_path)
        roll_out(trainer, 4)
        assert list(trainer._logs["rewards"]["given"]) == [3.5, 3.0, 1.0, 1.0]

    def test_are_their_sums_with_other_credit(self, tmp_path):
        by_turn = roll_out(turn_trainer(tmp_path, credit="completion"), 4)["advantages"]
        sums = [sum(turns) for turns in TURNS]
        assert torch.equal(
            by_turn, roll_out(turn_trainer(tmp_path, rewards=sums, credit="completion"), 4)["advantages"]
        )

    def test_of_dialogues_of_one_turn_are_those_of_grpo(self, tmp_path):
        script, rewards = [[ANSWER]] * 4, [[1.0], [0.0], [0.5], [2.0]]
        whole = roll_out(turn_trainer(tmp_path, script, rewards, credit="completion"), 4)["advantages"]
        found = roll_out(turn_trainer(tmp_path, script, rewards, credit_baseline="group"), 4)["advantages"]
        assert torch.allclose(found, whole.unsqueeze(1).expand_as(found), atol=1e-6)

    @pytest.mark.parametrize(
        "kind", [np.array, torch.tensor, tuple, lambda turns: [*map(np.float32, turns)], lambda t: [*torch.tensor(t)]]
    )
    def test_may_be_arrays_or_tuples(self, tmp_path, kind):
        plain = roll_out(turn_trainer(tmp_path), 4)["advantages"]
        assert torch.equal(roll_out(turn_trainer(tmp_path, rewards=[*map(kind, TURNS)]), 4)["advantages"], plain)

    def test_may_be_outcomes_for_some_and_nothing_for_others(self, tmp_path):
        trainer = turn_trainer(tmp_path, rewards=[[1.0, 0.5, 2.0], 3.0, 1.0, None])
        first, second, third, fourth = turn_advantages(trainer, roll_out(trainer, 4))
        assert [first[0], second[0], third[0]] == pytest.approx([3.5 - 2, 3 - 2.25, 1 - 3.25])
        # An outcome is undecided to the end: in the second turn, too, all 3 of it.
        assert first[1] == pytest.approx(2.5 - (2 * (2 - 1) + 3) / 3)
        assert second == pytest.approx([0.75, 3 - (2 * 2.25 + 2.5) / 3])
        assert fourth == [0.0, 0.0]

    def test_an_outcome_that_is_nan_is_none_as_in_trl(self, tmp_path):
        none, nan = (
            roll_out(turn_trainer(tmp_path, rewards=[[1.0, 0.5, 2.0], 3.0, 1.0, missing]), 4)["advantages"]
            for missing in (None, float("nan"))
        )
        assert none[0, 0] != 0 and torch.equal(none, nan)

    def test_count_for_less_with_a_discount(self, tmp_path):
        trainer = turn_trainer(tmp_path, turn_discount=0.5)
        first, second, third, _ = turn_advantages(trainer, roll_out(trainer, 4))
        to_go = [1 + 0.25 + 0.5, 1.5, 1.0, 1.0]
        others = [(sum(to_go) - own) / 3 for own in to_go]
        assert [first[0], second[0], third[0]] == pytest.approx([to_go[i] - others[i] for i in range(3)])

    def test_add_to_outcomes_by_weight(self, tmp_path):
        def outcome(completions, **kwargs):
            return [0.0, 1.0, 0.0, 1.0]

        def turns(completions, **kwargs):
            return TURNS

        config = {"credit": "turn", "scale_rewards": "none", "reward_weights": [2.0, 0.5]}
        trainer = make_trainer(tmp_path, SCRIPT, config, reward_funcs=[outcome, turns])
        _, second, _, _ = turn_advantages(trainer, roll_out(trainer, 4))
        assert second[0] == pytest.approx(2 * (1 - 1 / 3) + 0.5 * (3 - 5.5 / 3))
        assert second[1] == pytest.approx(
            2 * (1 - (2 * (1 / 3) + 0 + 1) / 4) + 0.5 * (3 - (2 * (5.5 / 3) + 2.5 + 0) / 4)
        )

    def test_of_asynchronous_functions_are_the_same(self, tmp_path):
        async def given(completions, **kwargs):
            return TURNS

        config = {"credit": "turn", "scale_rewards": "none", "coefficients": "uniform"}
        trainer = make_trainer(tmp_path, SCRIPT, config, reward_funcs=given)
        assert torch.equal(roll_out(trainer, 4)["advantages"], roll_out(turn_trainer(tmp_path), 4)["advantages"])

    def test_come_from_a_rollout_function(self, tmp_path):
        def rollout(prompts, trainer):
            ids = trainer.processing_class(GOLD + "<|im_end|>")["input_ids"]
            mask = [*[1] * len(ids), *[0] * len(ids), *[1] * len(ids)]
            count = len(prompts)
            return {
                "prompt_ids": [[1]] * count,
                "completion_ids": [ids * 3] * count,
                "logprobs": None,
                "env_mask": [mask] * count,
                "turn_scores": [[float(row), 1.0] for row in range(count)],
            }

        def score(turn_scores, **kwargs):
            return turn_scores

        config = {"credit": "turn", "scale_rewards": "none", "coefficients": "uniform"}
        trainer = make_trainer(tmp_path, [[]] * 4, config, tools=None, rollout_func=rollout, reward_funcs=score)
        found = turn_advantages(trainer, roll_out(trainer, 4))
        # All second turns earn the same; what the first have earned is in the guess alone, which is two of five.
        assert found == [pytest.approx([row - (6 - row) / 3, (row - (6 - row) / 3) * 2 / 5]) for row in range(4)]

    def test_train(self, tmp_path):
        trainer = turn_trainer(tmp_path, coefficients="entropy", learning_rate=1e-3)
        before = [parameter.clone() for parameter in trainer.model.parameters()]
        trainer.train()
        assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


class TestBadTurnRewards:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([1.0], "'given' gave 1 turn rewards for a completion of 3 turns: give one number for each"),
            ([1.0, None, 1.0], "each must be a finite number, 0 where a turn earns nothing"),
            ([1.0, float("nan"), 1.0], "each must be a finite number"),
        ],
    )
    def test_are_named_in_one_line(self, tmp_path, value, message):
        with pytest.raises(ValueError, match=message) as error:
            roll_out(turn_trainer(tmp_path, rewards=[value, *TURNS[1:]]), 4)
        assert "\n" not in str(error.value)

    def test_of_other_completions_are_refused(self):
        lists, numbers = (
            with_turns(lambda value=value, **kwargs: [value], "given", lambda ids: [[None]] * len(ids), 1.0)
            for value in ([1.0], 1.0)
        )
        for reward_func in (lists, numbers):
            reward_func(completion_ids=[[1, 2]])
        assert numbers.segments([[3, 4]]) == [[]]
        with pytest.raises(ValueError, match=r"'given' are those of other completions.*set refill_groups=0"):
            lists.segments([[3, 4]])

    def test_that_never_come_are_warned_of_once(self, tmp_path, caplog):
        trainer = turn_trainer(tmp_path, rewards=[1.0, 0.0, 0.5, 2.0])
        with caplog.at_level(logging.WARNING):
            roll_out(trainer, 4)
            trainer.play(SCRIPT)
            roll_out(trainer, 4)
        found = [record for record in caplog.records if "credit='turn' changes nothing" in record.getMessage()]
        assert len(found) == 1

    def test_that_cannot_come_are_warned_of_at_the_start(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING):
            make_trainer(tmp_path, SCRIPT, {"credit": "turn"}, reward_funcs=LayoutReward())
        assert any("credit='turn' changes nothing" in record.getMessage() for record in caplog.records)


class Weather:
    """Pays a quarter for each city that was not asked for yet, but never twice."""

    def reset(self, **kwargs):
        self.asked = []

    def get_weather(self, city: str) -> str:
        """
        Weather of a city.

        Args:
            city: The city.
        """
        self.asked.append(city)
        return "sunny"

    def turn_rewards(self):
        return [0.25 * (city not in self.asked[:place]) for place, city in enumerate(self.asked)]


class WeatherWithOutcome(Weather):
    def get_reward(self):
        return float("Paris" in self.asked)


class TestEnvironment:
    # Two calls in one turn; a call of no tool between; none; the same call twice.
    SCRIPT = (
        [TWO_CALLS, ANSWER],
        [CALL, CALL.replace("get_weather", "no_such"), OTHER, ANSWER],
        [ANSWER],
        [CALL, CALL, ANSWER],
    )
    TURNS = [[0.5, 0.0], [0.25, 0.0, 0.25, 0.0], [0.0], [0.25, 0.0, 0.0]]

    def trainer(self, path, factory=Weather, script=SCRIPT, config=None, **arguments):
        config = {"credit": "turn", "scale_rewards": "none", "coefficients": "uniform"} | (config or {})
        return make_trainer(path, script, config, tools=None, environment_factory=factory, **arguments)

    @pytest.mark.parametrize("factory", [Weather, WeatherWithOutcome, {"weather": Weather}])
    def test_pays_each_turn_what_it_adds(self, tmp_path, factory):
        trainer = self.trainer(tmp_path, factory)
        rows = [{**trainer.train_dataset[0], "environment": "weather"} for _ in range(4)]
        trainer.model.train()
        trainer._generate_and_score_completions(rows)
        reward = trainer.reward_funcs[trainer.reward_func_names.index("turn_rewards")]
        assert reward._values == self.TURNS
        assert list(trainer._logs["rewards"]["turn_rewards"]) == [0.5, 0.5, 0.0, 0.25]

    def test_has_its_outcome_beside_them(self, tmp_path):
        trainer = self.trainer(tmp_path, WeatherWithOutcome)
        roll_out(trainer, 4)
        assert trainer.reward_func_names == ["WeatherWithOutcome", "turn_rewards"]
        assert list(trainer._logs["rewards"]["WeatherWithOutcome"]) == [1.0, 1.0, 0.0, 0.0]

    def test_goes_with_weights_of_other_rewards(self, tmp_path):
        trainer = self.trainer(tmp_path, config={"reward_weights": [0.5]}, reward_funcs=LayoutReward())
        roll_out(trainer, 4)
        assert trainer.reward_weights.tolist() == [0.5, 1.0]

    def test_starts_anew_with_every_rollout(self, tmp_path):
        trainer = self.trainer(tmp_path)
        first = roll_out(trainer, 4)["advantages"]
        trainer.play(self.SCRIPT)
        assert torch.equal(roll_out(trainer, 4)["advantages"], first)

    def test_pays_calls_whose_results_are_too_long_to_go_on(self, tmp_path):
        class Talkative(Weather):
            def get_weather(self, city: str) -> str:
                """
                Weather of a city.

                Args:
                    city: The city.
                """
                return super().get_weather(city) * 500

        trainer = self.trainer(tmp_path, Talkative, [[CALL], [TWO_CALLS], [ANSWER], [ANSWER]])
        roll_out(trainer, 4)
        assert list(trainer._logs["rewards"]["turn_rewards"]) == [0.25, 0.5, 0.0, 0.0]

    def test_offers_no_tool_of_its_own_reward(self, tmp_path):
        call = CALL.replace("get_weather", "turn_rewards").replace('{"city": "Oslo"}', "{}")
        trainer = self.trainer(tmp_path, script=[[call, ANSWER], [ANSWER], [ANSWER], [ANSWER]])
        assert [tool.__name__ for tool in trainer.tools] == ["get_weather"]
        output = roll_out(trainer, 4)
        assert "Tool turn_rewards not found" in trainer.processing_class.decode(output["completion_ids"][0])
        assert "turn_rewards" not in trainer.processing_class.decode(output["prompt_ids"][0])

    def test_is_made_once_per_completion(self, tmp_path):
        made = []

        def factory():
            made.append(Weather())
            return made[-1]

        roll_out(self.trainer(tmp_path, factory), 4)
        assert len(made) == 4

    def test_without_the_method_is_left_to_trl(self, tmp_path):
        class Silent:
            reset, get_weather = Weather.reset, Weather.get_weather

            def get_reward(self):
                return 1.0

        trainer = self.trainer(tmp_path, Silent)
        assert trainer.reward_func_names == ["Silent"]
        roll_out(trainer, 4)

    def test_without_the_method_may_stand_beside_one_with_it(self, tmp_path):
        class Silent:
            reset, get_weather = Weather.reset, Weather.get_weather

        trainer = self.trainer(tmp_path, {"paid": Weather, "silent": Silent})
        trainer.model.train()
        rows = [{**trainer.train_dataset[0], "environment": name} for name in ("paid", "silent") * 2]
        trainer._generate_and_score_completions(rows)
        assert trainer.reward_funcs[0]._values == [self.TURNS[0], None, self.TURNS[2], None]

    def test_that_answers_later_is_refused(self, tmp_path):
        class Slow(Weather):
            async def turn_rewards(self):
                return []

        with pytest.raises(ValueError, match=r"Slow.turn_rewards is asynchronous.*plain method"):
            self.trainer(tmp_path, Slow)

    @pytest.mark.parametrize("value", [1.0, [None], [float("inf")]])
    def test_that_gives_no_numbers_is_refused(self, tmp_path, value):
        class Odd(Weather):
            def turn_rewards(self):
                return value

        with pytest.raises(ValueError, match=r"Odd.turn_rewards gave .* must return a list of finite numbers"):
            roll_out(self.trainer(tmp_path, Odd), 4)

    def test_is_refused_beside_a_rollout_function(self, tmp_path):
        with pytest.raises(ValueError, match="rollout_func is a loop of its own"):
            self.trainer(tmp_path, rollout_func=lambda prompts, trainer: {})


class Parts:
    """An object that is a reward function, with a method for its parts that fails."""

    def __call__(self, completions, factor=1.0, **kwargs):
        return [factor / len(completion) for completion in completions]

    def segments(self, completions, **kwargs):
        return [completion["no such"] for completion in completions]


class TestNamingFunction:
    @pytest.mark.parametrize(
        ("call", "error"),
        [
            (lambda reward: reward(["a", ""]), "ZeroDivisionError: float division by zero"),
            (lambda reward: reward.segments([{}]), "KeyError: 'no such'"),
        ],
    )
    def test_names_an_object_that_fails_and_the_line(self, call, error):
        reward = Parts()
        message = rf"the reward function 'parts' raised {error} \(test_turn_rewards.py, line \d+\)"
        with pytest.raises(UserFunctionError, match=message), naming_function("reward function", [reward], ["parts"]):
            call(reward)

    def test_finds_the_function_of_a_partial(self):
        reward = partial(Parts().__call__, factor=2.0)
        with pytest.raises(UserFunctionError, match="'half' raised"), naming_function("rule", [reward], ["half"]):
            reward([""])

    def test_lets_errors_of_others_pass(self):
        functions, names = [Parts(), len, LayoutReward("hermes")], ["parts", "length", "layout_reward"]
        with pytest.raises(KeyError), naming_function("reward function", functions, names):
            raise KeyError("of the trainer")
        message = "compares with the gold"
        with pytest.raises(ValueError, match=message) as error, naming_function("reward function", functions, names):
            functions[2](completions=[""])
        assert not isinstance(error.value, UserFunctionError)
