import dataclasses
import inspect
import math
import re
from fractions import Fraction

import pytest
from trl import GRPOConfig, GRPOTrainer

from rest_trl import ResTGRPOConfig


OWN_FIELDS = {
    "tool_call_syntax": None,
    "coefficients": "entropy",
    "reward_schedule": "horizon",
    "credit": "completion",
    "credit_baseline": None,
    "branch_size": None,
    "refill_groups": 0,
    "gold_weight": 0.0,
    "gold_variant": None,
    "share_prompts": "auto",
    "turn_discount": 1.0,
    "entropy_decay": 0.9,
    "diagnose_steps": None,
}
SHARED_RATIO_LOSSES = ["bnpo", "dapo", "dr_grpo", "grpo", "luspo", "sapo"]
OWN_RATIO_LOSSES = ["cispo", "vespo"]
NO_CURRICULUM = {"format_slope": 0.0, "parameters_slope": 0.0, "reasoning_slope": 0.0}


def make_config(**arguments):
    return ResTGRPOConfig("unused", use_cpu=True, bf16=False, report_to="none", **arguments)


class TestFields:
    def test_are_those_of_grpo_and_the_own_ones(self):
        theirs = {field.name: field for field in dataclasses.fields(GRPOConfig)}
        ours = {field.name: field for field in dataclasses.fields(ResTGRPOConfig)}
        assert ours.keys() - theirs.keys() == OWN_FIELDS.keys()
        assert theirs.keys() <= ours.keys()
        changed = {name for name in theirs if ours[name].default != theirs[name].default}
        assert changed == {"loss_type"}
        assert len(OWN_FIELDS) + len(changed) <= 14
        assert all(ours[name].default_factory == theirs[name].default_factory for name in theirs)

    def test_have_the_defaults_of_the_paper(self):
        config = make_config()
        assert (config.loss_type, config.beta) == ("grpo", 0.0)
        assert {name: getattr(config, name) for name in OWN_FIELDS} == OWN_FIELDS

    def test_compare_turns_with_those_of_others(self):
        left_out = {name: make_config(credit=name).leaves_one_out for name in ("turn", "region", "local")}
        assert left_out == {"turn": True, "region": False, "local": False}
        assert make_config(credit="region", credit_baseline="leave_one_out").leaves_one_out
        assert not make_config(credit="turn", credit_baseline="group").leaves_one_out

    def test_all_have_a_help_text_and_an_entry_in_the_docstring(self):
        for field in dataclasses.fields(ResTGRPOConfig):
            if field.name in OWN_FIELDS:
                assert field.metadata["help"]
                assert f"\n    {field.name} (`" in inspect.getdoc(ResTGRPOConfig)


class TestChoices:
    def test_of_the_loss_are_those_of_trl(self):
        source = inspect.getsource(GRPOTrainer)
        compared = re.findall(r"self\.loss_type (?:==|in) (\[[^]]*\]|\"[a-z_]+\")", source)
        assert set(re.findall(r'"([a-z_]+)"', " ".join(compared))) == {*SHARED_RATIO_LOSSES, *OWN_RATIO_LOSSES}

    @pytest.mark.parametrize("given", [True, False, "group", "batch", "none"])
    def test_of_the_scale_of_rewards_may_be_true_or_false(self, given):
        assert make_config(scale_rewards=given).scale_rewards in ("group", "batch", "none")

    def test_of_extremes_are_left_to_the_user(self):
        make_config(max_grad_norm=math.inf, epsilon_high=math.inf)
        make_config(learning_rate=0.0, top_k=0, top_entropy_quantile=0.0)
        make_config(top_k=-1)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"tool_call_syntax": "xml"}, "unknown tool_call_syntax 'xml': choose one of "),
            ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1, got 0"),
            ({"num_iterations": 0}, "num_iterations must be at least 1, got 0"),
            ({"learning_rate": -1e-6}, "learning_rate must be at least 0, got -1e-06"),
            ({"learning_rate": float("nan")}, "learning_rate must be at least 0, got nan"),
            ({"learning_rate": "1e-5"}, "learning_rate must be a number, got '1e-5'"),
            ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
            ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
            ({"top_k": -2}, "top_k must be at least -1, got -2"),
            ({"min_p": 2.0}, r"min_p must be in \[0, 1\], got 2.0"),
            ({"epsilon": -0.2}, "epsilon must be at least 0, got -0.2"),
            ({"loss_type": "ppo"}, "unknown loss_type='ppo': choose one of bnpo, dapo, dr_grpo, grpo"),
            (
                {"importance_sampling_level": "turn"},
                "unknown importance_sampling_level='turn': choose one of token",
            ),
            ({"scale_rewards": "std"}, "unknown scale_rewards='std': choose one of group, batch, none"),
            ({"optim_args": "rank=8,8"}, "optim_args has '8', which is not NAME=VALUE: write it like"),
            ({"chat_template_kwargs": "nope"}, "chat_template_kwargs='nope' is not a JSON object: write it like"),
            ({"coefficients": "entropie"}, "coefficients='entropie' cannot be imported .* dotted path"),
            ({"coefficients": "rest_trl.none.such"}, "cannot be imported .*rest_trl.none"),
            ({"coefficients": "math.no_such"}, "cannot be imported .*no_such"),
            ({"coefficients": "math.pi"}, "coefficients='math.pi' is a float, not a function"),
            ({"coefficients": {"scope": "group"}}, "unknown scope='group': choose one of completion, turn"),
            ({"coefficients": {"surrogate": "log"}}, "unknown surrogate 'log': choose"),
            ({"entropy_decay": 1.0}, r"entropy_decay must be in \[0, 1\), got 1.0"),
            ({"entropy_decay": -0.1}, r"entropy_decay must be in \[0, 1\), got -0.1"),
            ({"entropy_decay": float("nan")}, r"entropy_decay must be in \[0, 1\), got nan"),
            ({"coefficients": {"minimum": -0.1}}, "minimum must be a number from 0 on, got -0.1"),
            ({"coefficients": {"minimum": 2.0}}, "minimum=2.0, maximum=1.5: swap or widen them"),
            ({"coefficients": {"minimum": 0.0, "maximum": 0.0}}, "maximum must be positive"),
            ({"coefficients": {"minimum": float("nan")}}, "minimum"),
            ({"coefficients": {"maximum": float("nan")}}, "maximum"),
            ({"coefficients": {"parameter_name_scale": -1}}, "parameter_name_scale must be a number from 0 on"),
            ({"coefficients": {"rule": "uniform", "parameter_name_scale": 3}}, "no argument 'parameter_name_scale'"),
            ({"coefficients": {"horizon": 10, **NO_CURRICULUM}}, "horizon=10 has no effect, because all slopes are 0"),
            ({"refill_groups": -1}, "refill_groups must not be negative, got -1: 0 keeps"),
            ({"credit": "turn", "turn_discount": 1.1}, r"turn_discount must be in \[0, 1\], got 1.1"),
            ({"credit": "turn", "turn_discount": float("nan")}, r"turn_discount must be in \[0, 1\], got nan"),
            ({"turn_discount": 0.9}, "turn_discount=0.9 has no effect with credit='completion'"),
            ({"credit": "local", "turn_discount": 0.9}, "turn_discount=0.9 has no effect with credit='local'"),
            (
                {"credit_baseline": "leave_one_out"},
                "credit_baseline='leave_one_out' has no effect with credit='completion' and no branch_size",
            ),
            (
                {"credit": "turn", "importance_sampling_level": "sequence"},
                "credit='turn' with branch_size=None, which is per token, averages out",
            ),
            (
                {"credit": "region", "off_policy_mask_threshold": 0.1},
                "off_policy_mask_threshold=0.1 drops a completion by the sign of its advantage, so credit='region'",
            ),
            ({"credit": "region", "loss_type": "vespo"}, "loss_type='vespo' weighs a completion by the sign"),
            ({"coefficients": {"horizon": 0}}, "horizon must be positive, got 0: set the slopes to 0"),
            ({"coefficients": {"horizon": -5}}, "horizon must be positive, got -5"),
            ({"coefficients": {"format_slope": -0.5}}, "format_slope must be a number from 0 on, got -0.5"),
            ({"coefficients": {"parameters_slope": -0.5}}, "parameters_slope must be a number from 0 on, got -0.5"),
            ({"coefficients": {"reasoning_slope": -0.5}}, "reasoning_slope must be a number from 0 on, got -0.5"),
            ({"coefficients": {"reasoning_slope": float("nan")}}, "reasoning_slope must be a number from 0 on, got"),
        ],
        ids=lambda value: "" if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()),
    )
    def test_is_named_in_one_line(self, arguments, message):
        with pytest.raises(ValueError, match=message) as error:
            make_config(**arguments)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"entropy_decay": 0.0},
            {"coefficients": {"minimum": 0.0}},
            {"credit": "turn", "turn_discount": 0.0, "credit_baseline": "group"},
            {"credit_baseline": "leave_one_out", "num_generations": 8, "branch_size": 4},
            {"credit_baseline": "leave_one_out", "diagnose_steps": 5},
            {"coefficients": {"minimum": 1.0, "maximum": 1.0}},
            {"coefficients": {"horizon": 1}},
            {"coefficients": NO_CURRICULUM},
            {"coefficients": "rest_trl.regions.coefficients.uniform_coefficients"},
            {"coefficients": {"surrogate": "reciprocal"}, "tool_call_syntax": "rlla"},
        ],
        ids=lambda value: ",".join(value),
    )
    def test_is_not_what_lies_on_the_edge(self, arguments):
        config = make_config(**arguments)
        assert {name: getattr(config, name) for name in arguments} == arguments


class TestSequenceLevelRatios:
    @pytest.mark.parametrize("coefficients", ["entropy", "released", {"maximum": 2.0}])
    @pytest.mark.parametrize("loss_type", SHARED_RATIO_LOSSES)
    def test_would_cancel_the_coefficients_and_are_refused(self, loss_type, coefficients):
        config = make_config(importance_sampling_level="sequence", loss_type=loss_type, coefficients=coefficients)
        with pytest.raises(ValueError, match=f"loss_type='{loss_type}'.*importance_sampling_level='token'.*uniform"):
            config.check_rule(config.coefficients)

    @pytest.mark.parametrize("loss_type", SHARED_RATIO_LOSSES)
    def test_are_accepted_without_coefficients_and_with_a_rule_of_ones_own(self, loss_type):
        config = make_config(importance_sampling_level="sequence", loss_type=loss_type)
        config.check_rule("uniform")
        config.check_rule(lambda mask, **kwargs: mask)

    @pytest.mark.parametrize("loss_type", OWN_RATIO_LOSSES)
    def test_are_accepted_where_each_token_keeps_its_own_gradient(self, loss_type):
        make_config(importance_sampling_level="sequence", loss_type=loss_type).check_rule("entropy")

    @pytest.mark.parametrize("loss_type", SHARED_RATIO_LOSSES + OWN_RATIO_LOSSES)
    def test_do_not_concern_token_level_ratios(self, loss_type):
        make_config(loss_type=loss_type).check_rule("entropy")


class TestStepsPerRollout:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ({}, 1),
            ({"num_iterations": 2}, 2),
            ({"steps_per_generation": 8, "gradient_accumulation_steps": 2}, 4),
            ({"steps_per_generation": 1, "gradient_accumulation_steps": 4}, Fraction(1, 4)),
        ],
    )
    def test_are_less_than_one_where_a_step_has_several_rollouts(self, arguments, expected):
        assert make_config(**arguments).steps_per_rollout == expected
