import logging
import signal

import pandas as pd
import pytest
import yaml

from rest_trl.lab.commands.diagnose import main


RECIPE = {
    "model_name_or_path": "tiny",
    "dataset_name": "tiny",
    "tool_call_syntax": "hermes",
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "max_completion_length": 72,
    "max_steps": 2,
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "report_to": "none",
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def run(recipe, output_dir, *arguments):
    main(["--config", str(recipe), "--output_dir", str(output_dir), *arguments])
    return (output_dir / "report.md").read_text(), pd.read_parquet(output_dir / "estimates.parquet")


class TestDiagnose:
    def test_reports_on_exact_gradients(self, recipe, tmp_path, capsys):
        text, table = run(recipe, tmp_path / "out", "--groups", "4", "--theory_groups", "1")
        assert f"rest-trl diagnose --config {recipe} --output_dir {tmp_path}/out --groups 4 " in text
        assert "4 groups of 4 completions" in text and "all 535,168 trainable parameters" in text
        assert "fails at 0 of" in text and "(3) the theorem's bound" in text
        for rule in ("completion/uniform", "completion/entropy", "completion/released", "region/uniform"):
            assert f"| {rule} |" in text
        grpo = table[(table["rule"] == "completion/uniform") & (table["region"] == "whole")].set_index("measure")
        assert grpo.loc["trace_ratio", "value"] == 1.0 and grpo.loc["trace", "value"] > 0
        assert (grpo.loc["trace", ["low", "high"]] > 0).all()
        assert (table["value"] == table["value"]).all()
        assert (tmp_path / "out/report.png").stat().st_size > 10_000
        assert str(tmp_path / "out/report.md") in capsys.readouterr().out

    def test_reports_on_projected_gradients_of_the_head(self, recipe, tmp_path, capsys):
        output_dir = tmp_path / "[bold]"
        text, table = run(recipe, output_dir, "--groups", "4", "--gradients", "head", "--dimension", "16")
        assert f"Report:  {output_dir}/report.md" in capsys.readouterr().out
        assert "projected at random to 256 numbers" in text and "0 backward passes a group" in text
        assert "Theorem 1\n\nNot measured" in text
        assert (table["measure"] == "trace").any() and not table["measure"].str.startswith("theorem").any()

    def test_takes_overrides_of_the_recipe(self, recipe, tmp_path):
        arguments = ["--groups", "3", "--gradients", "head", "--num_generations", "2", "--loss_type", "dapo"]
        text, _ = run(recipe, tmp_path / "out", *arguments)
        assert "3 groups of 2 completions" in text and "loss_type dapo" in text
        assert text.splitlines()[3].endswith("--num_generations 2 --loss_type dapo")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--groups", "2"], "--groups 2 must be at least 3"),
            (["--groups", "9999"], "at most the 2048 prompts"),
            (["--dimension", "0"], "dimension=0 must be positive"),
            (["--loss_type", "vespo"], "not of 'vespo'"),
            (["--nonsense", "1"], "unknown argument --nonsense"),
        ],
    )
    def test_ends_with_one_line_where_an_argument_is_wrong(self, arguments, message, recipe, tmp_path):
        with pytest.raises(SystemExit) as error:
            run(recipe, tmp_path, *arguments)
        assert message in str(error.value) and "\n" not in str(error.value)

    def test_leaves_the_gold_call_out_and_says_so(self, recipe, tmp_path, caplog):
        caplog.set_level(logging.WARNING, "rest_trl")
        arguments = ["--groups", "3", "--gradients", "head", "--num_generations", "2"]
        _, with_gold = run(recipe, tmp_path / "gold", *arguments, "--gold_weight", "0.5")
        assert "gold_weight=0.5 is left out" in caplog.text
        _, without = run(recipe, tmp_path / "none", *arguments)
        pd.testing.assert_frame_equal(with_gold, without)

    def test_refuses_an_adapter(self, recipe, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        with pytest.raises(SystemExit, match="merge it"):
            main(["--model_name_or_path", str(tmp_path), "--config", str(recipe)])

    def test_says_of_ctrl_c_that_there_is_no_report(self, recipe, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("rest_trl.train.make_trainer", lambda *arguments: signal.raise_signal(signal.SIGINT))
        with pytest.raises(SystemExit) as error:
            run(recipe, tmp_path)
        assert error.value.code == 130
        line = "rest-trl diagnose: interrupted before the report was written"
        assert capsys.readouterr().err.splitlines()[-1] == line

    def test_stands_where_the_training_of_the_checkpoint_stopped(self, recipe, tmp_path):
        from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerState

        from rest_trl.lab.tiny import TINY_MODEL_DIR

        for loaded in (AutoModelForCausalLM, AutoTokenizer):
            loaded.from_pretrained(TINY_MODEL_DIR).save_pretrained(tmp_path / "checkpoint")
        TrainerState(global_step=3, max_steps=4).save_to_json(str(tmp_path / "checkpoint/trainer_state.json"))
        arguments = ["--config", str(recipe), "--groups", "3", "--gradients", "head", "--output_dir", str(tmp_path)]
        main(["--model_name_or_path", str(tmp_path / "checkpoint"), *arguments])
        assert "curriculum 0.75" in (tmp_path / "report.md").read_text()
