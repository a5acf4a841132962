import json

import pytest
import torch

from rest_trl.lab.display.offline_rules import make_rule, read_state
from rest_trl.regions import entropy_coefficients, released_coefficients, to_regions
from rest_trl.tool_calls import Part


PARTS = torch.tensor([[Part.TAG, Part.REASONING, Part.TAG, Part.TOOL_NAME, Part.PARAMETER_VALUE, Part.NONE]])
INPUTS = {"completion_ids": torch.arange(6)[None], "mask": (PARTS != 0).long(), "part_ids": PARTS}
ENTROPIES = [None, 0.1, 0.4, 0.2, 0.8, None]
SHARES = [0.0, 0.4, 0.1, 0.3, 0.2, 0.0]


@pytest.fixture
def checkpoint(tmp_path):
    statistics = {"attributes": {"observed": {"entropies": ENTROPIES, "shares": SHARES}}}
    state = {"global_step": 30, "max_steps": 120, "stateful_callbacks": {"RegionStatistics": statistics}}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    return tmp_path


def expected(progress=0.25, **changes):
    settings = {
        "surrogate": "one_minus_exp",
        "minimum": 0.5,
        "maximum": 1.5,
        "format_slope": 0.5,
        "parameters_slope": 0.6,
        "reasoning_slope": 0.4,
    } | changes
    return entropy_coefficients(
        mask=INPUTS["mask"],
        part_ids=PARTS,
        region_ids=to_regions(PARTS),
        region_entropies=torch.tensor([float("nan") if e is None else e for e in ENTROPIES]),
        region_shares=torch.tensor(SHARES),
        progress=progress,
        **settings,
    )


def double_rule(mask, **kwargs):
    return 2.0 * mask


def hungry_rule(mask, entropies, **kwargs):
    return entropies


class TestReadState:
    def test_is_what_the_checkpoint_says(self, checkpoint):
        state = read_state(checkpoint)
        assert state.step == 30 and state.progress == 0.25
        assert state.region_entropies[0].isnan() and state.region_shares.tolist() == pytest.approx(SHARES)

    def test_refuses_other_directories(self, tmp_path):
        with pytest.raises(ValueError, match=r"holds no trainer_state\.json"):
            read_state(tmp_path)
        (tmp_path / "trainer_state.json").write_text('{"global_step": 1, "max_steps": 1, "stateful_callbacks": {}}')
        with pytest.raises(ValueError, match="not of a run with ResTGRPOTrainer"):
            read_state(tmp_path)


class TestMakeRule:
    def test_entropy_is_that_of_the_checkpoint(self, checkpoint):
        rule, name = make_rule("entropy", checkpoint=checkpoint)
        assert torch.equal(rule(**INPUTS), expected())
        assert "step 30, 25% of the training" in name and "default arguments" in name

    @pytest.mark.parametrize(
        ("recipe", "changes"),
        [
            ("{rule: entropy, maximum: 1.1, surrogate: reciprocal}", {"maximum": 1.1, "surrogate": "reciprocal"}),
            ("{format_slope: 0, parameters_slope: 0, reasoning_slope: 0}", {"progress": 0.0}),
            ("{horizon: 40}", {"progress": 0.75}),
        ],
    )
    def test_entropy_has_the_settings_of_the_recipe(self, recipe, changes, checkpoint, tmp_path):
        (tmp_path / "recipe.yaml").write_text(f"coefficients: {recipe}\n")
        rule, name = make_rule("entropy", checkpoint=checkpoint, recipe=tmp_path / "recipe.yaml")
        assert torch.equal(rule(**INPUTS), expected(**changes))
        assert "default arguments" not in name

    def test_entropy_is_not_guessed_without_a_checkpoint(self):
        assert make_rule("entropy") == (None, "entropy")

    @pytest.mark.parametrize("step", [0, 100])
    def test_released_is_that_of_the_rollout(self, step):
        rule, name = make_rule("released", step=step)
        assert torch.equal(rule(**INPUTS), released_coefficients(mask=INPUTS["mask"], part_ids=PARTS, step=step))
        assert name == f"released at rollout {step}"

    def test_takes_a_dotted_path(self):
        rule, _ = make_rule(f"{__name__}.double_rule")
        assert rule(**INPUTS).tolist() == [[2.0] * 5 + [0.0]]

    def test_says_what_a_rule_lacks_outside_a_training(self):
        rule, _ = make_rule(f"{__name__}.hungry_rule")
        with pytest.raises(ValueError, match=r"missing 1 required positional argument: 'entropies'.*log_completions"):
            rule(**INPUTS)

    def test_takes_weights(self):
        rule, _ = make_rule("entropy", weights=[0, 1, 0, 0, 0])
        assert rule(**INPUTS)[0].tolist() == pytest.approx([0, 0, 0, 5, 0, 0])

    def test_refuses_what_is_no_recipe(self, checkpoint, tmp_path):
        (tmp_path / "recipe.yaml").write_text("- a\n")
        with pytest.raises(ValueError, match="is not a YAML mapping"):
            make_rule("entropy", checkpoint=checkpoint, recipe=tmp_path / "recipe.yaml")
