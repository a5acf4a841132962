import shlex
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from rest_trl import demo
from rest_trl.tiny import TINY_MODEL_DIR, load_tiny_dataset


@pytest.fixture
def tiny():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return (
        AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR, dtype=torch.float32),
        AutoTokenizer.from_pretrained(TINY_MODEL_DIR),
    )


class TestSample:
    def test_depends_on_the_seed_alone(self, tiny):
        prompts = load_tiny_dataset("test", size=4)["prompt"]
        torch.manual_seed(1)
        first = demo.sample(*tiny, prompts, max_new_tokens=8, seed=0)
        state = torch.get_rng_state()
        assert torch.equal(first, demo.sample(*tiny, prompts, max_new_tokens=8, seed=0))
        assert torch.equal(state, torch.get_rng_state())
        assert not torch.equal(first, demo.sample(*tiny, prompts, max_new_tokens=8, seed=1))


class TestCountExact:
    def test_counts_gold_completions_and_no_others(self, tiny):
        _, tokenizer = tiny
        solutions = list(load_tiny_dataset("test", size=32)["solution"])
        ids = tokenizer(solutions, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
        assert demo.count_exact(ids, solutions, tokenizer, "hermes") == 32
        assert demo.count_exact(ids[1:], solutions[:-1], tokenizer, "hermes") < 8


class TestResultsTable:
    def test_shows_wilson_intervals(self):
        console = Console(width=120)
        with console.capture() as capture:
            console.print(demo.results_table("ResT", [("start", 50)], 100))
        # Wilson (1927) for 50 of 100
        assert "0.500" in capture.get() and "[0.404, 0.596]" in capture.get()


class TestMain:
    def test_clears_what_an_earlier_demo_has_left_but_no_other_run(self, tmp_path, monkeypatch):
        class Stop(Exception):
            pass

        def stop(*args):
            raise Stop

        monkeypatch.setattr(demo, "_run", stop)
        arguments = ["--config", "recipes/demo.yaml", "--output_dir", str(tmp_path)]
        (tmp_path / "notes.md").touch()
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(SystemExit, match="holds results of an earlier run"):
            demo.main(arguments)
        with pytest.raises(Stop):
            demo.main([*arguments, "--overwrite_output_dir"])
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(Stop):  # interrupted as it was, that was a demo
            demo.main(arguments)
        assert sorted(path.name for path in tmp_path.iterdir()) == [demo.SHOWN, "notes.md"]

    def test_names_the_extra_that_it_lacks(self, monkeypatch):
        monkeypatch.setattr("rest_trl.runs.checks.find_spec", lambda name: None)
        with pytest.raises(SystemExit) as error:
            demo.main(["--config", "recipes/demo.yaml"])
        assert error.value.code == (
            "rest_trl.demo: error: matplotlib and scipy not installed: pip install 'rest-trl[demo]'"
        )

    def test_starts_without_its_extra(self):
        block = "import sys; sys.modules['matplotlib'] = sys.modules['scipy'] = None; import rest_trl.demo"
        assert subprocess.run([sys.executable, "-c", block]).returncode == 0

    def test_trains_measures_and_plots(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(demo, "HELD_OUT", 16)
        trainer = demo.main(
            shlex.split(
                f"--config recipes/demo.yaml --max_steps 2 --num_generations 4 --per_device_train_batch_size 8 "
                f"--output_dir {tmp_path}"
            )
        )
        assert trainer.state.global_step == 2
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "model.safetensors").exists()
        assert "16 held-out prompts" in " ".join((tmp_path / demo.SHOWN).read_text().split())
        out = capsys.readouterr().out
        assert "start" in out and "end" in out and "16 held-out prompts" in " ".join(out.split())
