import copy

import pytest
import torch
from sampled import DATASET, diagnosed_trainer, flat, sample_given, text

from rest_trl.lab.diagnose.token_weights import GRPO


def train(model, tokenizer, path, **arguments):
    trainer = diagnosed_trainer(copy.deepcopy(model), tokenizer, path, **arguments)
    trainer.train()
    return trainer


def diagnosed_steps(trainer):
    return [log["step"] for log in trainer.state.log_history if f"diagnose/trace/{GRPO}" in log]


class TestDiagnoseCallback:
    @pytest.mark.parametrize("arguments", [{}, {"credit": "region", "coefficients": "entropy"}])
    def test_logs_and_leaves_the_training_as_it_is_to_the_bit(self, arguments, model, tokenizer, tmp_path):
        common = {"max_steps": 3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, **arguments}
        plain = train(model, tokenizer, tmp_path, diagnose_steps=None, **common)
        trainer = train(model, tokenizer, tmp_path, diagnose_steps=2, **common)
        assert torch.equal(flat(plain.model.parameters()), flat(trainer.model.parameters()))
        assert plain.state.global_step == 3 and diagnosed_steps(plain) == []

    def test_logs_every_so_many_steps(self, model, tokenizer, tmp_path, monkeypatch):
        sample_given(monkeypatch, tokenizer)
        trainer = train(model, tokenizer, tmp_path, diagnose_steps=2, max_steps=4)
        assert diagnosed_steps(trainer) == [1, 3]
        log = trainer.state.log_history[0]
        assert log["diagnose/trace/completion/uniform"] > 0
        assert log["diagnose/trace/region/uniform/parameters"] != log["diagnose/trace/completion/uniform/parameters"]
        regions = {key.rsplit("/", 1)[1] for key in log if key.startswith("diagnose/trace/completion/uniform/")}
        assert regions == {"format", "tool_name", "parameters", "reasoning", "response"}

    def test_waits_for_the_next_rollout_if_one_serves_several_steps(self, model, tokenizer, tmp_path, monkeypatch):
        sample_given(monkeypatch, tokenizer)
        trainer = train(model, tokenizer, tmp_path, diagnose_steps=1, num_iterations=2, max_steps=4)
        assert diagnosed_steps(trainer) == [1, 3]

    def test_logs_zeros_of_a_rollout_without_a_gradient(self, model, tokenizer, tmp_path, monkeypatch):
        sample_given(monkeypatch, tokenizer, [DATASET[0]["solution"]] * 16)
        log = train(model, tokenizer, tmp_path, max_steps=1).state.log_history[0]
        logged = {key: value for key, value in log.items() if key.startswith("diagnose/")}
        assert set(logged.values()) == {0.0} and {key.split("/")[1] for key in logged} == {"trace", "signal"}
        # The same names as of any rollout, but for the ratios, which are not defined.
        sample_given(monkeypatch, tokenizer)
        log = train(model, tokenizer, tmp_path, max_steps=1).state.log_history[0]
        assert set(logged) == {key for key in log if key.startswith(("diagnose/trace/", "diagnose/signal/"))}

    def test_logs_zero_for_a_region_that_a_rollout_lacks(self, model, tokenizer, tmp_path, monkeypatch):
        sample_given(monkeypatch, tokenizer, [text(days) for days in (3, 4)] * 8)
        log = train(model, tokenizer, tmp_path, max_steps=1).state.log_history[0]
        assert log["diagnose/trace/completion/uniform/response"] == 0 < log["diagnose/trace/completion/uniform"]

    @pytest.mark.parametrize(
        "arguments", [{"loss_type": "vespo"}, {"loss_type": "cispo"}, {"top_entropy_quantile": 0.2}]
    )
    def test_refuses_a_loss_that_it_does_not_know(self, arguments, model, tokenizer, tmp_path):
        with pytest.raises(ValueError, match="a diagnosis"):
            diagnosed_trainer(model, tokenizer, tmp_path, **arguments)

    def test_refuses_several_processes(self, model, tokenizer, tmp_path, monkeypatch):
        monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
        with pytest.raises(ValueError, match="in one process"):
            diagnosed_trainer(model, tokenizer, tmp_path)
