"""Arms and studies: what sets them apart. `test_recipes.py` parses every arm, as every recipe."""

from pathlib import Path

import pytest
import yaml
from test_recipes import ARMS, DEMO, FULL, ROOT, SFT_ARMS, values

from rest_trl.lab.sft import make_parser
from rest_trl.lab.study.arms import load_study
from rest_trl.regions.rules import bind_rule
from rest_trl.runs.recipes import load_arm, with_arms


SFT = Path("recipes/tiny/sft.yaml")
BIG_SFT = Path("recipes/qwen3_8b_sft.yaml")
DECIDES = Path("recipes/tiny/decides.yaml")
ABLATIONS = "rest_trl.regions.ablations."
NO_GOLD = {"gold_weight": 0.0}
GRPO = NO_GOLD | {"credit": "completion", "coefficients": "uniform", "reward_schedule": "static"}
REST = NO_GOLD | {"credit": "completion", "coefficients": "entropy", "reward_schedule": "horizon"}
REGION = NO_GOLD | {"credit": "region", "coefficients": "uniform"}
LORA = {"use_peft": True, "lora_r": 32, "lora_alpha": 32, "lora_dropout": 0.0, "lora_target_modules": "all-linear"}
# What each arm changes.
SETTINGS = {
    "grpo": GRPO,
    "dr_grpo": GRPO | {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "gdpo": GRPO | {"multi_objective_aggregation": "normalize_then_sum"},
    "top_entropy": GRPO | {"top_entropy_quantile": 0.2},
    "stare": GRPO | {"coefficients": "rest_trl.regions.stare.stare"},
    "refill": GRPO | {"refill_groups": 4},
    "rest": REST,
    "released": NO_GOLD
    | {
        "credit": "completion",
        "coefficients": "released",
        "reward_schedule": "released",
        "loss_type": "dapo",
        "delta": 3.0,
    },
    "static_reward": REST | {"reward_schedule": "static"},
    "no_curriculum": REST
    | {"coefficients": {"rule": "entropy", "format_slope": 0.0, "parameters_slope": 0.0, "reasoning_slope": 0.0}},
    "no_reasoning_gradient": REST | {"coefficients": ABLATIONS + "no_reasoning"},
    "call_tokens_only": REST | {"coefficients": ABLATIONS + "call_tokens_only"},
    "token_entropy": REST | {"coefficients": ABLATIONS + "token_entropy"},
    "reciprocal": REST | {"coefficients": {"rule": "entropy", "surrogate": "reciprocal"}},
    "kl": REST | {"beta": 0.003},
    "entropy_bonus": REST | {"entropy_coef": 0.001},
    "region": REGION,
    "region_rest": REGION | {"coefficients": "entropy"},
    "gold": {"credit": "completion", "coefficients": "uniform", "gold_weight": 1.0},
    "leave_one_out": REGION | {"credit_baseline": "leave_one_out"},
    "branch": REGION | {"credit_baseline": "leave_one_out", "branch_size": 2},
    "local": NO_GOLD | {"credit": "local", "coefficients": "uniform"},
    "turn": NO_GOLD | {"credit": "turn", "coefficients": "uniform"},
    "turn_rest": NO_GOLD | {"credit": "turn", "coefficients": "entropy"},
    "lora": LORA | {"dtype": "bfloat16", "learning_rate": 1e-5},
    "sft_then_grpo": GRPO | {"model_name_or_path": "outputs/qwen3_8b_sft"},
    "sft_then_rest": REST
    | {"model_name_or_path": "outputs/qwen3_8b_sft", "coefficients": {"rule": "entropy", "horizon": 420}},
    "calls": {"model_name_or_path": "tiny/calls", "dataset_name": "tiny/calls", "max_completion_length": 128},
    "arguments": {
        "model_name_or_path": "tiny/arguments",
        "dataset_name": "tiny/arguments",
        "max_completion_length": 96,
    },
    "tsft": {"format_weight": 2.0, "tool_name_weight": 2.0, "parameters_weight": 2.0},
    "rsft": {"reasoning_weight": 2.0},
}
# The settings of the two studies that docs/results.md begins with, as they were when their runs were made.
DEMO_RUN = {
    "model_name_or_path": "tiny",
    "dataset_name": "tiny",
    "tool_call_syntax": "hermes",
    "reward_schedule": "horizon",
    "num_generations": 8,
    "max_completion_length": 128,
    "temperature": 1.0,
    "per_device_train_batch_size": 64,
    "gradient_accumulation_steps": 1,
    "learning_rate": 6e-4,
    "lr_scheduler_type": "constant",
    "max_steps": 50,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "output_dir": "outputs/demo",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
}
DECIDES_RUN = DEMO_RUN | {
    "model_name_or_path": "tiny/decides",
    "dataset_name": "tiny/decides",
    "max_completion_length": 96,
    "learning_rate": 3e-4,
    "output_dir": "outputs/tiny/decides",
}
SQUARE = {
    "grpo": NO_GOLD | {"credit": "completion", "coefficients": "uniform"},
    "rest": NO_GOLD | {"credit": "completion", "coefficients": "entropy"},
    "region": NO_GOLD | {"credit": "region", "coefficients": "uniform"},
    "region_rest": NO_GOLD | {"credit": "region", "coefficients": "entropy"},
}


class TestArms:
    def test_none_is_left_out(self):
        assert set(ARMS) == set(SETTINGS)

    @pytest.mark.parametrize("arm", ARMS)
    def test_changes_what_its_name_says(self, arm):
        assert load_arm(arm) == SETTINGS[arm]
        bind_rule(SETTINGS[arm].get("coefficients", "entropy"))

    # An arm that says what a recipe is anyway changes nothing; refilled groups and branches are options of any run.
    @pytest.mark.parametrize("arm", sorted(SETTINGS.keys() - {"rest", *SFT_ARMS}))
    def test_changes_the_large_recipe(self, arm):
        full, default = values(FULL), NO_GOLD | {"credit": "completion"}
        assert any(value != full.get(key, default.get(key)) for key, value in SETTINGS[arm].items())

    def test_a_later_arm_replaces_settings_of_an_earlier_one(self):
        combined = with_arms({"beta": 0.1, "output_dir": "outputs/mine"}, ["kl", "grpo", "lora"])
        assert combined == {"beta": 0.003} | GRPO | SETTINGS["lora"] | {"output_dir": "outputs/mine-kl-grpo-lora"}

    def test_a_recipe_without_arms_is_as_it_was(self):
        assert with_arms({"output_dir": None}, []) == {"output_dir": None}
        assert with_arms({}, ["rest"]) == REST

    def test_a_misspelt_arm_is_named_with_the_nearest(self):
        with pytest.raises(
            ValueError, match=r"^there is no arm gdop: do you mean gdpo\? rest-trl recipes lists them$"
        ):
            load_arm("gdop")

    def test_rl_starts_where_sft_ends(self):
        for arm in ("sft_then_grpo", "sft_then_rest"):
            assert load_arm(arm)["model_name_or_path"] == values(BIG_SFT)["output_dir"]


class TestTinyRecipes:
    def test_decides_differs_from_the_demo_only_in_model_data_length_and_rate(self):
        changes = {key: DECIDES_RUN[key] for key in DECIDES_RUN if DECIDES_RUN[key] != DEMO_RUN[key]}
        assert values(DECIDES) == values(DEMO) | changes


class TestSFTRecipes:
    def test_large_one_trains_the_rows_and_batches_of_rest(self, monkeypatch):
        monkeypatch.chdir(ROOT)
        rest, sft = values(FULL), values(BIG_SFT)
        for key in ("model_name_or_path", "dataset_name", "tool_call_syntax", "max_prompt_length"):
            assert sft[key] == rest[key]
        processes = yaml.safe_load(Path("recipes/accelerate/fsdp2.yaml").read_text())["num_processes"]
        assert sft["per_device_train_batch_size"] * sft["gradient_accumulation_steps"] * processes == 64
        _, args, _ = make_parser().parse_args_and_config(["--config", str(BIG_SFT), "--use_cpu", "true"])
        assert args.max_length == rest["max_prompt_length"] + rest["max_completion_length"]


class TestStudies:
    @pytest.mark.parametrize(("name", "run"), [("demo", DEMO_RUN), ("decides", DECIDES_RUN)])
    def test_arms_are_those_of_the_published_runs(self, name, run):
        study = load_study(Path("studies"), name=name)
        assert study.arms == {arm: run | settings for arm, settings in SQUARE.items()}
        assert (study.seeds, study.held_out, study.evaluations, study.baseline) == (tuple(range(8)), 512, 1, "grpo")

    @pytest.mark.parametrize(("name", "scale"), [("rates", 1e-4), ("decides_rates", 1e-4)])
    def test_rates_are_those_of_the_names(self, name, scale):
        run = {"rates": DEMO_RUN, "decides_rates": DECIDES_RUN}[name]
        study = load_study(Path("studies"), name=name)
        assert study.seeds == (101, 102) and len(study.arms) == 12
        for arm, settings in study.arms.items():
            method, _, rate = arm.rpartition("_")
            assert settings == run | SQUARE[method] | {"learning_rate": pytest.approx(float(rate) * scale)}

    def test_sft_then_starts_from_a_result_of_the_sft_recipe(self):
        study = load_study(Path("studies"), name="sft_then")
        start = DEMO_RUN | {"model_name_or_path": "outputs/sft-0", "learning_rate": 3e-4}
        assert study.arms == {
            "grpo": start | GRPO,
            "rest": start | REST | {"coefficients": {"rule": "entropy", "horizon": 25}},
            "region": start | REGION,
        }
