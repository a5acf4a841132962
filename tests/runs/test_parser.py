import dataclasses

import pytest
import yaml
from trl import ModelConfig

from rest_trl import ResTGRPOConfig
from rest_trl.runs.parser import fits
from rest_trl.train import ResTScriptArguments, make_parser


CPU = ["--use_cpu", "true"]


def parse(tmp_path, recipe, *arguments):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    return make_parser().parse_args_and_config(["--config", str(path), *CPU, *arguments])


class TestRecipeParser:
    def test_lets_the_command_line_override_the_recipe(self, tmp_path):
        _, training_args, _ = parse(tmp_path, "learning_rate: 1e-3\nmax_steps: 5\n", "--max_steps", "7")
        assert (training_args.learning_rate, training_args.max_steps) == (1e-3, 7)

    @pytest.mark.parametrize("given", [True, False])
    def test_takes_the_recipe_behind_an_equals_sign(self, tmp_path, monkeypatch, given):
        path = tmp_path / "recipe.yaml"
        path.write_text("max_steps: 5\n")
        arguments = [f"--config={path}", *CPU]
        monkeypatch.setattr("sys.argv", ["train", *arguments])
        assert make_parser().parse_args_and_config(arguments if given else None)[1].max_steps == 5

    @pytest.mark.parametrize(
        ("recipe", "message"),
        [
            (
                "learning_rat: 1e-3",
                "the recipe has unknown argument learning_rat (do you mean learning_rate?): --help",
            ),
            ("lora-alpa: 8\nqqqq: 1", "unknown arguments lora-alpa (do you mean lora_alpha?), qqqq: --help lists all"),
            ("max_steps: [1]", "the recipe's max_steps must be a whole number, but is [1]"),
            ("max_steps: 2.5", "the recipe's max_steps must be a whole number, but is 2.5"),
            ("max_steps: true", "the recipe's max_steps must be a whole number, but is True"),
            ("max_steps:", "the recipe's max_steps must be a whole number, but is None"),
            ("learning_rate: {a: 1}", "the recipe's learning_rate must be a number, but is {'a': 1}"),
            ("beta: false", "the recipe's beta must be a number, but is False"),
            ("use_vllm: 1", "the recipe's use_vllm must be true or false, but is 1"),
            ("output_dir: [a]", "the recipe's output_dir must be a string or null, but is ['a']"),
            ("max_prompt_length: [1]", "max_prompt_length must be a whole number or null, but is [1]"),
            ("reward_weights: [1, a]", "reward_weights must be a list of numbers or null, but is [1, 'a']"),
            ("reward_weights: [1e-1]", "reward_weights must be a list of numbers or null, but is ['1e-1']"),
            ("reward_funcs: [1]", "the recipe's reward_funcs must be a list of strings or null, but is [1]"),
            ("1: a", "recipe.yaml has the key 1, which YAML does not read as a word: put it into quotes"),
            ("no: a", "recipe.yaml has the key False, which YAML does not read as a word"),
        ],
    )
    def test_names_what_is_wrong_in_a_recipe(self, tmp_path, recipe, message):
        with pytest.raises(ValueError) as error:
            parse(tmp_path, recipe)
        assert message in str(error.value)

    def test_takes_one_name_for_a_list_as_the_command_line_does(self, tmp_path):
        script_args, training_args, model_args = parse(
            tmp_path, "reward_funcs: layout_reward\nreport_to: none\nlora_target_modules: all-linear\n"
        )
        assert script_args.reward_funcs == ["layout_reward"]
        assert training_args.report_to == []
        assert model_args.lora_target_modules == "all-linear"

    def test_names_a_recipe_that_is_no_text(self, tmp_path):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(b"# \xe9\nmax_steps: 5\n")
        with pytest.raises(ValueError, match=r"recipe.yaml is not UTF-8 text \(byte 2\)"):
            make_parser().parse_args_and_config(["--config", str(path), *CPU])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--learning-rtae", "1"], "the command line has unknown argument --learning-rtae (do you mean learning_"),
            (
                ["--learning_ratt=1"],
                "the command line has unknown argument --learning_ratt (do you mean learning_",
            ),
            (["stray"], "the command line has 'stray' without an argument"),
            (["--config"], "--config needs a file"),
        ],
    )
    def test_names_what_is_wrong_on_the_command_line(self, arguments, message):
        with pytest.raises(ValueError) as error:
            make_parser().parse_args_and_config([*CPU, *arguments])
        assert message in str(error.value)


class TestFits:
    @pytest.mark.parametrize("dataclass_type", [ResTScriptArguments, ResTGRPOConfig, ModelConfig])
    def test_every_default_is_a_value_of_its_type(self, dataclass_type):
        hints = make_parser()._hints
        for field in dataclasses.fields(dataclass_type):
            if field.init and field.default is not dataclasses.MISSING:
                value = yaml.safe_load(yaml.safe_dump(getattr(field.default, "value", field.default)))
                assert fits(value, hints[field.name]), field.name

    @pytest.mark.parametrize(
        ("value", "hint"),
        [
            (1, float),
            ("1e-4", float),
            (False, str),  # `save_strategy: no`, which the trainer refuses with the strategies that there are
            (True, str | bool | None),
            (["a"], list[str] | None),
            ("all-linear", list[str] | None),
            ({"a": 1}, dict | str | None),
            ("{}", dict | str | None),
            (None, int | None),
        ],
    )
    def test_takes_what_yaml_makes_of_a_value(self, value, hint):
        assert fits(value, hint)
