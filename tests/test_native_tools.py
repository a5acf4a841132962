"""TRL's own loop of tool calls with scripted completions: what the policy writes is fixed, all else is TRL's."""

import pytest
import torch
from chat_templates import TEMPLATES
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOTrainer

from rest_trl import Region, ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.regions import to_regions
from rest_trl.rewards import LayoutReward, ToolCallReward


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
OTHER = CALL.replace("Oslo", "Paris")
BROKEN = CALL.replace('"}}', "")
GOLD = "<think>\nI look it up.\n</think>\n\n" + CALL


def get_weather(city: str) -> str:
    """
    Weather of a city.

    Args:
        city: The city.

    Returns:
        The weather, which quotes a call: what a tool says must not be taken for what the policy says.
    """
    return f"Sunny in {city}. {CALL}"


class Scripted(GRPOTrainer):
    """Below ResTGRPOTrainer, in the place of the sampling: per completion the turns that the policy writes."""

    def play(self, script):
        self._pending = [
            [self.processing_class(turn + "<|im_end|>")["input_ids"] for turn in turns] for turns in script
        ]
        self._live = None

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        # The first turns come for all prompts; later ones for those that called, known by their call.
        rows = range(len(self._pending)) if self._live is None else self._live
        self._live = [row for row in rows if self._pending[row]]
        turns = [self._pending[row].pop(0) for row in self._live]
        assert len(turns) == len(prompt_ids)
        return turns, None


class ScriptedTrainer(ResTGRPOTrainer, Scripted):
    pass


def make_trainer(path, script, config=None, **arguments):
    """A trainer whose policy writes `script`: per completion its turns."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    tokenizer.chat_template = TEMPLATES["qwen3"]
    prompt = [{"role": "user", "content": "What is the weather in Oslo?"}]
    rows = {"prompt": [prompt] * len(script), "solution": [GOLD] * len(script)}
    trainer = ScriptedTrainer(
        AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR),
        args=ResTGRPOConfig(
            str(path),
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            reward_schedule="static",
            per_device_train_batch_size=len(script),
            num_generations=len(script),
            max_steps=1,
            logging_steps=1,
            **({"max_completion_length": 256} | (config or {})),
        ),
        processing_class=tokenizer,
        **({"tools": [get_weather], "train_dataset": Dataset.from_dict(rows)} | arguments),
    )
    trainer.play(script)
    return trainer


def roll_out(trainer, count):
    trainer.model.train()
    rows = [dict(trainer.train_dataset[0]) for _ in range(count)]
    return trainer._generate_and_score_completions(rows)


def texts(trainer, output, region):
    """What lies in a region of each completion, decoded; tokens reach over its ends by white space and braces."""
    regions = to_regions(output["part_ids"])
    return [
        trainer.processing_class.decode(ids[inside == region]).strip(' {}\n"')
        for ids, inside in zip(output["completion_ids"], regions, strict=True)
    ]


class TestToolLoop:
    SCRIPT = ([GOLD, "It is sunny."], [OTHER, "It is sunny."], ["It is sunny."], [BROKEN])

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory):
        trainer = make_trainer(tmp_path_factory.mktemp("run"), cls.SCRIPT)
        return trainer, roll_out(trainer, len(cls.SCRIPT))

    def rewards(self, trainer):
        return [list(trainer._logs["rewards"][name]) for name in ("layout_reward", "tool_call_reward")]

    def test_scores_the_calls_of_the_policy_alone(self, run):
        trainer, _ = run
        layout, calls = self.rewards(trainer)
        assert layout == [1.0, 0.0, 0.0, 0.0]
        # One of two scores of the second call is right (name and parameter name), which is 2 of 3 points.
        assert calls == pytest.approx([3.0, 1.0, -3.0, -3.0])

    def test_marks_the_tokens_of_the_policy_alone(self, run):
        trainer, output = run
        assert texts(trainer, output, Region.PARAMETERS)[:3] == ['city": "Oslo', 'city": "Paris', ""]
        assert texts(trainer, output, Region.TOOL_NAME)[:3] == ["get_weather", "get_weather", ""]
        assert texts(trainer, output, Region.RESPONSE)[:3] == ["It is sunny."] * 3
        assert texts(trainer, output, Region.REASONING)[0] == "I look it up."
        policy = (output["completion_mask"] * output["tool_mask"]).bool()
        assert torch.equal(to_regions(output["part_ids"]) != Region.NONE, policy)
        assert "Sunny in Oslo" in texts(trainer, output, Region.NONE)[0]

    def test_gives_tool_results_no_coefficient(self, run):
        trainer, output = run
        trainer.current_gradient_accumulation_steps = 1
        policy = (output["completion_mask"] * output["tool_mask"]).bool()
        trainer.args.coefficients = "entropy"
        trainer.compute_loss(trainer.model, output)
        coefficients = trainer._coefficients(output)
        assert coefficients[~policy].eq(0).all()
        means = coefficients.sum(1) / policy.sum(1)
        assert torch.allclose(means, torch.ones_like(means), atol=1e-5)

    @pytest.mark.parametrize("rule", ["entropy", "released"])
    def test_can_bring_the_coefficients_of_every_turn_to_a_mean_of_one(self, rule, tmp_path):
        by_scope = {}
        for scope in ("completion", "turn"):
            config = {"coefficients": {"rule": rule, "scope": scope}}
            trainer = make_trainer(tmp_path, self.SCRIPT, config)
            output = roll_out(trainer, len(self.SCRIPT))
            trainer.state.global_step, trainer.state.max_steps = 1, 4
            trainer.region_statistics.entropies = [float("nan"), 0.01, 0.05, 0.3, 0.5, 0.2]
            trainer.region_statistics.shares = [0.0, 0.2, 0.1, 0.2, 0.4, 0.1]
            by_scope[scope] = trainer._coefficients(output)
        assert torch.equal(by_scope["turn"][2:], by_scope["completion"][2:])  # dialogues of one turn
        policy = (output["completion_mask"] * output["tool_mask"]).bool()
        assert by_scope["turn"][~policy].eq(0).all()
        masked = zip(output["completion_ids"], output["completion_mask"], strict=True)
        turns_of_rows = trainer.reader.turns([ids[mask.bool()].tolist() for ids, mask in masked])
        assert [len(turns) for turns in turns_of_rows] == [2, 2, 1, 1]
        for row, turns in zip(by_scope["turn"], turns_of_rows, strict=True):
            for turn in turns:
                own = row[turn.column : turn.column + len(turn.token_starts)]
                kept = own[own > 0]
                assert not len(kept) or kept.mean().item() == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("scope", ["completion", "turn"])
    def test_of_one_turn_is_the_path_without_tools_to_the_bit(self, scope, tmp_path):
        script, found = [[GOLD], [OTHER], ["It is sunny."], [BROKEN]], []
        for tools, own_scope in (([get_weather], scope), (None, "completion")):
            config = {"coefficients": {"rule": "entropy", "scope": own_scope}, "max_tool_calling_iterations": 0}
            trainer = make_trainer(tmp_path, script, config, tools=tools)
            output = roll_out(trainer, len(script))
            trainer.region_statistics.entropies = [float("nan"), 0.01, 0.05, 0.3, 0.5, 0.2]
            trainer.region_statistics.shares = [0.0, 0.2, 0.1, 0.2, 0.4, 0.1]
            found.append([output["part_ids"], output["advantages"], trainer._coefficients(output)])
        assert "tool_mask" not in output
        assert all(map(torch.equal, *found))

    def test_trains(self, tmp_path):
        trainer = make_trainer(tmp_path, self.SCRIPT)
        before = [parameter.clone() for parameter in trainer.model.parameters()]
        trainer.args.learning_rate = 1e-3
        trainer.train()
        log = trainer.state.log_history[0]
        assert log["rest/reward/exact"] == 0.25
        assert log["rest/unparsed"] == 0.25
        assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


class TestEnvironment:
    class Weather:
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

        def get_reward(self):
            return float("Oslo" in self.asked)

    SCRIPT = ([GOLD, "It is sunny."], [OTHER, "It is sunny."])

    def test_brings_its_own_reward(self, tmp_path):
        trainer = make_trainer(tmp_path, self.SCRIPT, tools=None, environment_factory=self.Weather)
        assert trainer.reward_func_names == ["Weather"]
        output = roll_out(trainer, 2)
        assert list(trainer._logs["rewards"]["Weather"]) == [1.0, 0.0]
        assert texts(trainer, output, Region.PARAMETERS) == ['city": "Oslo', 'city": "Paris']

    def test_takes_rule_rewards_beside_it(self, tmp_path):
        rewards = [LayoutReward(), ToolCallReward()]
        trainer = make_trainer(
            tmp_path, self.SCRIPT, tools=None, environment_factory=self.Weather, reward_funcs=rewards
        )
        roll_out(trainer, 2)
        assert [list(trainer._logs["rewards"][name]) for name in trainer.reward_func_names] == [
            [1.0, 0.0],
            pytest.approx([3.0, 1.0]),
            [1.0, 0.0],
        ]


class TestRolloutFunction:
    def test_with_an_env_mask_is_read_turn_by_turn(self, tmp_path):
        def rollout(prompts, trainer):
            tokenizer = trainer.processing_class
            call, result = (tokenizer(text + "<|im_end|>\n")["input_ids"] for text in (GOLD, "user\n" + CALL))
            return {
                "prompt_ids": [[1]] * len(prompts),
                "completion_ids": [call + result + call[:-1]] * len(prompts),
                "logprobs": None,
                "env_mask": [[*[1] * len(call), *[0] * len(result), *[1] * (len(call) - 1)]] * len(prompts),
            }

        trainer = make_trainer(tmp_path, ([], []), tools=None, rollout_func=rollout)
        output = roll_out(trainer, 2)
        assert [text.count("Oslo") for text in texts(trainer, output, Region.PARAMETERS)] == [2, 2]
        assert [text.count("get_weather") for text in texts(trainer, output, Region.TOOL_NAME)] == [2, 2]
        # The call was made twice, and the gold has it once: names 1/2, parameters 1, value 1.
        assert list(trainer._logs["rewards"]["tool_call_reward"]) == pytest.approx([-3 + 6 * 2.5 / 3] * 2)

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (lambda ids: [1] * (len(ids) - 1), "`env_mask` of completion 0 has"),
            (lambda ids: [1] * len(ids), "completion 0 of rollout_func goes on after the end of a turn"),
        ],
    )
    def test_with_a_wrong_env_mask_is_refused(self, mask, message, tmp_path):
        def rollout(prompts, trainer):
            ids = trainer.processing_class(f"{CALL}<|im_end|>\n<|im_start|>user\nSunny.<|im_end|>\n")["input_ids"]
            count = len(prompts)
            return {
                "prompt_ids": [[1]] * count,
                "completion_ids": [ids] * count,
                "logprobs": None,
                "env_mask": [mask(ids)] * count,
            }

        trainer = make_trainer(tmp_path, ([], []), tools=None, rollout_func=rollout)
        with pytest.raises(ValueError, match=message):
            roll_out(trainer, 2)


class TestHalfCharacters:
    """A policy can write half a surrogate pair as an escape of JSON; no tokenizer takes it."""

    HALF = CALL.replace("Oslo", "\\ud83d")
    NAMED = CALL.replace("get_weather", "get_\\ud83d")
    WHOLE = CALL.replace("Oslo", "\\ud83d\\ude00")

    def test_neither_end_a_training_nor_change_what_is_whole(self, tmp_path):
        seen = []

        def reward(prompts, completions, **kwargs):
            seen.extend(completions)
            return [float(len(str(completion).encode())) for completion in completions]

        script = [[text, "It is sunny."] for text in (self.HALF, self.NAMED, self.WHOLE, CALL)]
        config = {"log_completions": True}
        trainer = make_trainer(tmp_path, script, config, reward_funcs=[reward, ToolCallReward()])
        trainer.train()
        calls = [messages[0]["tool_calls"][0]["function"] for messages in seen]
        assert [call["arguments"]["city"] for call in calls] == ["\ufffd", "Oslo", "\U0001f600", "Oslo"]
        assert [call["name"] for call in calls] == ["get_weather", "get_\ufffd", "get_weather", "get_weather"]
        assert "Sunny in \ufffd." in seen[0][1]["content"]


class TestCutOff:
    """Completions that do not end within `max_completion_length`."""

    class Unfinished(ScriptedTrainer):
        def play(self, script):
            super().play(script)
            self._pending = [
                [ids[:-1] if cut else ids for ids in turns] for cut, turns in zip(self.cut, self._pending, strict=True)
            ]

    @pytest.mark.parametrize("cut", [(True, True), (True, False)])
    def test_are_never_exact_and_draw_a_warning_where_all_are(self, cut, tmp_path, caplog, monkeypatch):
        monkeypatch.setattr(self.Unfinished, "cut", cut, raising=False)
        monkeypatch.setitem(globals(), "ScriptedTrainer", self.Unfinished)
        limit = 200 + sum(cut)  # a warning is given once for each limit
        trainer = make_trainer(tmp_path, [[GOLD]] * 2, {"max_completion_length": limit}, tools=None)
        trainer.train()
        log = trainer.state.log_history[0]
        exact = 1 - sum(cut) / 2
        assert log["rest/reward/exact_with_calls"] == exact and log["rewards/tool_call_reward/mean"] == 3
        assert ("all completions of a rollout are cut off" in caplog.text) == all(cut)
