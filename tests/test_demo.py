import shlex
import subprocess
import sys

import pytest
from rich.console import Console

from rest_trl import demo


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
