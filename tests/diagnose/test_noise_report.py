import pytest
import torch
from sampled import diagnosed_trainer, roll_out

from rest_trl.lab.diagnose.diagnosis import Settings
from rest_trl.lab.diagnose.noise_report import Facts, write_report


SETTINGS = Settings("exact", theory_groups=1)


def diagnosed(model, tokenizer, path, monkeypatch, **arguments):
    trainer = diagnosed_trainer(model, tokenizer, path, **arguments)
    roll_out(trainer, tokenizer, monkeypatch)
    return trainer, trainer.diagnosis.diagnose(trainer.diagnosis.groups, SETTINGS)


class TestReport:
    def test_says_what_the_steps_of_theorem_1_need(self, model, tokenizer, tmp_path, monkeypatch):
        trainer, diagnosis = diagnosed(model, tokenizer, tmp_path, monkeypatch)
        # Drawing takes most of the time, and is tested with the command.
        monkeypatch.setattr("rest_trl.lab.diagnose.noise_report.plot_diagnosis", lambda *arguments: None)
        text = write_report(diagnosis, Facts("command", trainer.args, 0.0, 1, 1.0), tmp_path).read_text()
        assert "independent of the tokens, and completions of one length." in text

    @pytest.mark.parametrize("loss_type", ["dr_grpo", "dapo"])
    def test_has_no_theorem_1_with_a_loss_of_another_scale(self, loss_type, model, tokenizer, tmp_path, monkeypatch):
        trainer, diagnosis = diagnosed(model, tokenizer, tmp_path, monkeypatch, loss_type=loss_type)
        assert diagnosis.theorem is None
        monkeypatch.setattr("rest_trl.lab.diagnose.noise_report.plot_diagnosis", lambda *arguments: None)
        text = write_report(diagnosis, Facts("command", trainer.args, 0.0, 1, 1.0), tmp_path).read_text()
        assert "Not measured: it needs exact gradients, --theory_groups and --loss_type grpo or sapo." in text

    def test_counts_groups_whose_equal_rewards_have_a_mean_of_another_number(
        self, model, tokenizer, tmp_path, monkeypatch
    ):
        trainer = diagnosed_trainer(model, tokenizer, tmp_path)
        roll_out(trainer, tokenizer, monkeypatch)
        groups = trainer.diagnosis.groups
        # What is left of eight rewards of .7 minus their mean, divided as TRL does.
        groups[0].advantages["completion"][:] = torch.tensor(6e-8) / 1e-4
        groups[1].advantages["completion"][:] = 0.0
        assert trainer.diagnosis.diagnose(groups, SETTINGS).equal_groups == 2
