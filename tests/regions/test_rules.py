import re
from functools import partial

import pytest
import torch

from rest_trl.regions import CoefficientsFunc, normalize, uniform_coefficients
from rest_trl.regions.rules import (
    PRESETS,
    bind_rule,
    checked_coefficients,
    get_coefficients_func,
    needs_forward_pass,
    rule_name,
)


NAN = float("nan")


class TestGetCoefficientsFunc:
    def test_knows_the_presets(self):
        assert {name: get_coefficients_func(name) for name in PRESETS} == PRESETS
        assert sorted(PRESETS) == ["entropy", "released", "uniform"]

    def test_imports_a_dotted_path(self):
        assert get_coefficients_func("rest_trl.regions.coefficients.uniform_coefficients") is uniform_coefficients

    def test_takes_a_function_as_it_is(self):
        assert bind_rule(normalize) is normalize

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("entropie", "cannot be imported .*entropy, released, uniform.*dotted path"),
            ("", "cannot be imported"),
            (".relative", "cannot be imported"),
            (".relative.function", "cannot be imported"),
            ("no_such_package.function", "No module named 'no_such_package'"),
            ("rest_trl.regions.coefficients.no_such_function", "no attribute 'no_such_function'"),
            ("math.pi", "is a float, not a function"),
        ],
    )
    def test_names_what_cannot_be_used(self, path, reason):
        with pytest.raises(ValueError, match=rf"^coefficients='{path}' .*{reason}|^coefficients='{path}' {reason}"):
            get_coefficients_func(path)


class TestArguments:
    def test_are_those_of_the_signature(self):
        assert bind_rule({"maximum": 2.0, "horizon": 10}).keywords == {"maximum": 2.0, "horizon": 10}
        assert bind_rule({"rule": "entropy"}) is PRESETS["entropy"]

    def test_of_a_rule_of_ones_own_are_bound_to_it(self, monkeypatch):
        bound = bind_rule({"rule": "regions_of_ones_own.rule", "scale": 2.0})
        assert bound(mask=torch.ones(1, 2)).tolist() == [[2.0, 2.0]]

    @pytest.mark.parametrize(
        ("coefficients", "message"),
        [
            ({"maximun": 2.0}, r"the rule 'entropy' .* has no argument 'maximun' \(do you mean maximum\?\): its arg"),
            (
                {"rule": "uniform", "parameter_name_scale": 3},
                "'uniform' .* no argument 'parameter_name_scale'",
            ),
            ({"rule": "released", "step": 3}, "'released' of the coefficients has no argument 'step'"),
            ({"rule": "entropie"}, "coefficients='entropie' cannot be imported .*do you mean entropy"),
            ({"minimum": "low"}, "coefficients: "),
            (3, "coefficients=3 is not a rule: give one of entropy, released, uniform, a dotted path, or a mapping"),
            (None, "coefficients=None is not a rule"),
        ],
    )
    def test_that_are_unknown_or_without_effect_are_refused(self, coefficients, message):
        with pytest.raises(ValueError, match=message) as error:
            bind_rule(coefficients)
        assert "\n" not in str(error.value)

    def test_give_a_rule_its_name(self):
        names = [rule_name(given) for given in ("released", {"maximum": 2.0}, {"rule": "uniform"}, normalize)]
        assert names == ["released", "entropy", "uniform", "normalize"]


class TestCheckedCoefficients:
    MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])

    def test_gives_usable_coefficients_back(self):
        coefficients = torch.tensor([[0.0, 3.0, NAN], [1.0, -1.0, float("inf")]])  # outside the mask anything goes
        assert checked_coefficients(lambda **arguments: coefficients, self.MASK, {}) is coefficients

    @pytest.mark.parametrize("value", [-1e-3, NAN, float("inf"), -float("inf")])
    def test_refuses_a_value_that_breaks_the_loss(self, value):
        coefficients = torch.ones(2, 3)
        coefficients[1, 0] = value
        with pytest.raises(ValueError, match="must be finite and non-negative: found a negative, infinite or NaN"):
            checked_coefficients(lambda **arguments: coefficients, self.MASK, {})

    @pytest.mark.parametrize(
        ("coefficients", "found"),
        [
            (torch.ones(2), r"\(2,\)"),
            (torch.ones(3, 2), r"\(3, 2\)"),
            (torch.ones(2, 3, 1), r"\(2, 3, 1\)"),
            (None, "NoneType"),
            (1.0, "float"),
        ],
    )
    def test_refuses_another_shape(self, coefficients, found):
        with pytest.raises(ValueError, match=rf"must be a tensor of shape \(B, T\) = \(2, 3\), got {found}"):
            checked_coefficients(lambda **arguments: coefficients, self.MASK, {})

    def test_raises_what_the_rule_raises(self):
        def rule(mask, **kwargs):
            raise KeyError("no such region")

        with pytest.raises(KeyError, match="no such region"):
            checked_coefficients(rule, self.MASK, {})

    def test_gives_the_rule_its_arguments(self):
        def rule(mask, step, **kwargs):
            return step * mask

        assert torch.equal(checked_coefficients(rule, self.MASK, {"step": 3, "progress": 0.0}), 3 * self.MASK)


class TestNeedsForwardPass:
    def test_reads_the_parameters_of_the_rule(self):
        def with_entropies(mask, entropies, **kwargs): ...

        def with_logps(mask, per_token_logps, **kwargs): ...

        assert needs_forward_pass(with_entropies) and needs_forward_pass(with_logps)
        assert needs_forward_pass(partial(with_entropies, step=1))
        assert not any(needs_forward_pass(preset) for preset in PRESETS.values())

    def test_rules_are_functions_of_the_protocol(self):
        assert all(isinstance(preset, CoefficientsFunc) for preset in PRESETS.values())


PROGRAM = """
import sys
import torch
from accelerate import PartialState
from rest_trl.regions.rules import checked_coefficients

state = PartialState(cpu=True)
assert state.num_processes == 2

def rule(mask, **kwargs):
    if state.process_index == 1:
        raise KeyError("no such region")
    return torch.ones(mask.shape)

try:
    checked_coefficients(rule, torch.ones(1, 2), {})
except (KeyError, RuntimeError) as error:
    with open(f"{sys.argv[1]}/{state.process_index}", "w") as file:
        file.write(f"{type(error).__name__}: {error}")
state.destroy_process_group()
"""


class TestOnTwoRanks:
    def test_a_failure_on_one_ends_both(self, tmp_path, fork_server):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        fork_server.run(program, tmp_path, ranks=2)
        assert (tmp_path / "1").read_text() == "KeyError: 'no such region'"
        assert re.match(
            r"RuntimeError: the rule of the coefficients failed on rank 1 \(KeyError: 'no such region'\)",
            (tmp_path / "0").read_text(),
        )
