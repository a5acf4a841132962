"""Recipes that name an environment."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rest_trl.lab.tiny import TINY_AGENTS, TINY_MODELS
from rest_trl.train import main, make_parser, make_trainer


RECIPE = str(Path(__file__).resolve().parents[1] / "recipes" / "tiny" / "agents.yaml")
SHORT = ["--per_device_train_batch_size", "8", "--max_completion_length", "160"]

COUNTER = '''
class Counter:
    def reset(self, goal, **kwargs):
        self.goal, self.count = goal, 0
        return f" It shows {self.count}."

    def add(self, number: int) -> int:
        """
        Add a number.

        Args:
            number: The number.
        """
        self.count += number
        return self.count

    def get_reward(self):
        return float(self.count == self.goal)


def make_counter():
    return Counter()
'''


def trainer_of(path, *arguments):
    parsed = make_parser().parse_args_and_config(
        ["--config", RECIPE, *SHORT, "--output_dir", str(path), *arguments], fail_with_unknown_args=True
    )
    return make_trainer(*parsed)


@pytest.fixture
def counter(tmp_path, monkeypatch):
    """Module and data set of an environment of the user's own."""
    (tmp_path / "counters.py").write_text(COUNTER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "counters", raising=False)
    file = tmp_path / "tasks.jsonl"
    rows = [{"prompt": [{"role": "user", "content": f"Count to {goal}."}], "goal": goal} for goal in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--environment_factory", "counters.make_counter", "--dataset_name", str(file), "--credit", "completion"]


class TestRecipe:
    def test_trains_in_the_help_desk_by_turns(self, tmp_path):
        main(["--config", RECIPE, *SHORT, "--max_steps", "2", "--output_dir", str(tmp_path / "run")])
        trained, before = (
            AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path / "run", TINY_MODELS[TINY_AGENTS])
        )
        pairs = zip(trained.parameters(), before.parameters(), strict=True)
        assert any(not torch.equal(one, other) for one, other in pairs)

    def test_is_paid_by_the_desk_alone(self, tmp_path):
        trainer = trainer_of(tmp_path)
        assert trainer.reward_func_names == ["HelpDesk", "turn_rewards"]
        outcome = trainer_of(tmp_path, "--environment_factory", "rest_trl.lab.tiny.agents.OutcomeHelpDesk")
        assert outcome.reward_func_names == ["OutcomeHelpDesk"]

    def test_evaluates_on_held_out_tasks(self, tmp_path):
        trainer = trainer_of(tmp_path, "--eval_strategy", "steps", "--eval_steps", "1")
        assert len(trainer.eval_dataset) == 128
        metrics = trainer.evaluate(trainer.eval_dataset.select(range(8)))
        assert 0 <= metrics["eval_rewards/HelpDesk/mean"] <= 1


class TestOwnEnvironment:
    def test_gets_the_columns_of_its_rows(self, tmp_path, counter):
        trainer = trainer_of(tmp_path / "run", *counter, "--max_steps", "1")
        trainer.train()
        log = trainer.state.log_history[0]
        assert 0 <= log["rewards/Counter/mean"] <= 1 and "tools/call_frequency" in log

    def test_that_is_misspelt_is_named_in_one_line(self, tmp_path, counter):
        arguments = ["--config", RECIPE, *SHORT, "--output_dir", str(tmp_path / "run"), *counter]
        with pytest.raises(SystemExit, match=r"environment_factory: 'counters.Countess' cannot be imported") as error:
            main([*arguments, "--environment_factory", "counters.Countess"])
        assert "\n" not in str(error.value)
