"""Recipes of the baselines and ablations: what sets them apart. `test_recipes.py` parses them as all others."""

from pathlib import Path

import pytest
import yaml
from test_recipes import DEMO, FAMILIES, ROOT, SFT_RECIPES, TINY_RECIPES, values

from rest_trl.lab.sft import make_parser
from rest_trl.regions import get_coefficients_func


REST = Path("recipes/tiny/rest.yaml")
SFT = Path("recipes/tiny/sft.yaml")
BIG_SFT = Path("recipes/qwen3_8b_sft.yaml")
ABLATIONS = "rest_trl.regions.ablations."
GRPO = {"coefficients": "uniform", "reward_schedule": "static"}
BRANCH = {"credit": "region", "credit_baseline": "leave_one_out", "branch": "reasoning", "branch_size": 2}
# What sets a run apart from ResT, beside `output_dir`.
OF_REST = {
    "grpo": GRPO,
    "dr_grpo": GRPO | {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "gdpo": GRPO | {"multi_objective_aggregation": "normalize_then_sum"},
    "branch": GRPO | BRANCH,
    "refill": GRPO | {"refill_groups": 4},
    "top_entropy": GRPO | {"top_entropy_quantile": 0.2},
    "stare": GRPO | {"coefficients": "rest_trl.regions.stare.stare"},
    "static_reward": {"reward_schedule": "static"},
    "no_reasoning_gradient": {"coefficients": ABLATIONS + "no_reasoning"},
    "call_tokens_only": {"coefficients": ABLATIONS + "call_tokens_only"},
    "token_entropy": {"coefficients": ABLATIONS + "token_entropy"},
    "no_curriculum": {"curriculum": False},
    "kl": {"beta": 0.003},
    "entropy_bonus": {"entropy_coef": 0.001},
    "reciprocal": {"entropy_surrogate": "reciprocal"},
    "sft_then_grpo": GRPO | {"model_name_or_path": "outputs/tiny/sft"},
    "sft_then_rest": {"curriculum_horizon": 25, "model_name_or_path": "outputs/tiny/sft"},
}
# Tasks beside the embedded world: the most tokens that a completion may have.
TASKS = {"decides": 96, "calls": 128, "arguments": 96}
# What sets a run apart from SFT, beside `output_dir`.
OF_SFT = {
    "sft": {},
    "tsft": {"format_weight": 2.0, "tool_name_weight": 2.0, "parameters_weight": 2.0},
    "rsft": {"reasoning_weight": 2.0},
}


def test_no_tiny_recipe_is_left_out():
    assert {recipe.stem for recipe in TINY_RECIPES} == {"rest", *OF_REST, *OF_SFT, *TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_run_on_a_task_differs_from_the_demo_only_in_model_data_and_length(task):
    expected = values(DEMO) | {"model_name_or_path": f"tiny/{task}", "dataset_name": f"tiny/{task}"}
    expected |= {"max_completion_length": TASKS[task], "output_dir": f"outputs/tiny/{task}", "learning_rate": 3e-4}
    assert values(Path(f"recipes/tiny/{task}.yaml")) == expected


@pytest.mark.parametrize("name", OF_REST)
def test_run_differs_from_rest_only_in_what_its_name_says(name):
    expected = values(REST) | OF_REST[name] | {"output_dir": f"outputs/tiny/{name}"}
    assert values(Path(f"recipes/tiny/{name}.yaml")) == expected
    get_coefficients_func(expected["coefficients"])


@pytest.mark.parametrize("recipe", SFT_RECIPES, ids=str)
def test_run_differs_from_sft_only_in_its_weights(recipe):
    plain = SFT if recipe in TINY_RECIPES else BIG_SFT
    name = recipe.stem.rpartition("_")[2]
    output_dir = values(plain)["output_dir"].removesuffix("sft") + name
    assert values(recipe) == values(plain) | OF_SFT[name] | {"output_dir": output_dir}


def test_sft_has_a_recipe_of_each_size():
    stems = {recipe.stem for recipe in SFT_RECIPES}
    assert stems == {*OF_SFT, *(f"qwen3_8b_{name}" for name in OF_SFT)}
    assert "qwen3_8b" in FAMILIES


@pytest.mark.parametrize(("sft", "then"), [(SFT, "tiny/"), (BIG_SFT, "qwen3_8b_")], ids=["tiny", "large"])
def test_rl_starts_where_sft_ends(sft, then):
    for name in ("sft_then_grpo", "sft_then_rest"):
        assert values(Path(f"recipes/{then}{name}.yaml"))["model_name_or_path"] == values(sft)["output_dir"]


# Branches and refilled groups are options of any run and no baselines: there is no recipe of them for a large model.
@pytest.mark.parametrize("name", sorted(OF_REST.keys() - {"branch", "refill", "grpo"}))
def test_large_twin_changes_what_the_tiny_one_changes(name):
    full, twin = (values(Path(f"recipes/qwen3_8b_{run}.yaml")) for run in ("full", name))
    own = OF_REST[name].keys() - {"model_name_or_path", "curriculum_horizon"}
    assert {key: twin[key] for key in own} == {key: OF_REST[name][key] for key in own}
    assert all(twin[key] != full.get(key) for key in own)


def test_large_sft_trains_the_rows_and_batches_of_rest(monkeypatch):
    monkeypatch.chdir(ROOT)
    rest, sft = values(Path("recipes/qwen3_8b_full.yaml")), values(BIG_SFT)
    for key in ("model_name_or_path", "dataset_name", "tool_call_syntax", "max_prompt_length"):
        assert sft[key] == rest[key]
    processes = yaml.safe_load(Path("recipes/accelerate/fsdp2.yaml").read_text())["num_processes"]
    assert sft["per_device_train_batch_size"] * sft["gradient_accumulation_steps"] * processes == 64
    _, args, _ = make_parser().parse_args_and_config(["--config", str(BIG_SFT), "--use_cpu", "true"])
    assert args.max_length == rest["max_prompt_length"] + rest["max_completion_length"]
