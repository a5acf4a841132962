import sys
from types import SimpleNamespace

import pytest

from rest_trl.lab.commands import task_errors
from rest_trl.lab.tiny.world import Step


def step(value, reasoning):
    return Step("single", [], [], reasoning, [{"name": "f", "arguments": {"x": value}}], "")


def sampled(of_step, is_cut=False):
    return task_errors.Sampled(of_step.solution, is_cut)


class TestKindOfError:
    @pytest.mark.parametrize("value", ["7", "a(b", "[/x]", "c++"])
    def test_finds_a_wrong_value_in_the_reasoning_whatever_its_characters(self, value):
        gold = step("3", "x = 3.")
        for reasoning, place in ((f"x = {value}.", "from the reasoning"), ("x = 31.", "in the call")):
            assert task_errors.kind_of_error(sampled(step(value, reasoning)), gold) == f"value, {place}"

    def test_takes_a_value_for_no_pattern(self):
        completion, gold = sampled(step(1.5, "x = 145.")), step(2.5, "x = 2.5.")
        assert task_errors.kind_of_error(completion, gold) == "value, in the call"

    def test_what_was_cut_off_is_never_exact(self):
        gold = step(2, "x = 2.")
        assert task_errors.kind_of_error(sampled(gold), gold) == "none"
        assert task_errors.kind_of_error(sampled(gold, is_cut=True), gold) == "cut off"
        assert task_errors.exact_share([sampled(gold), sampled(gold, is_cut=True)], [gold] * 2) == 0.5


class TestMain:
    def test_names_as_many_prompts_and_groups_as_were_measured(self, monkeypatch, capsys):
        pretrained = SimpleNamespace(from_pretrained=lambda name: None)
        for name in ("AutoModelForCausalLM", "AutoTokenizer"):
            monkeypatch.setattr(task_errors, name, pretrained)
        monkeypatch.setattr(task_errors, "render_prompt", lambda step, tokenizer: "")
        one = task_errors.Sampled("none")
        monkeypatch.setattr(task_errors, "complete", lambda model, tokenizer, prompts, seed: [one] * len(prompts))
        monkeypatch.setattr(task_errors, "resolve_model", lambda name: name)
        monkeypatch.setattr(
            sys, "argv", ["task_errors", "--task", "calls", "--model_name_or_path", "out[/x]", "--size", "3"]
        )
        monkeypatch.setenv("COLUMNS", "200")
        task_errors.main()
        out = capsys.readouterr().out
        assert "groups without spread, of 3 " in out and "out[/x] on calls: 3 held-out prompts" in out
