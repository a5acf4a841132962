from types import SimpleNamespace

import pytest

from rest_trl.runs.program import run


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a run in `b` that ends where the trainer is made, and says whether it came so far."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/checkpoint-100", "b/checkpoint-200"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "trainer_state.json").write_text("{}")

    def started(resume, overwrites):
        training_args = SimpleNamespace(resume_from_checkpoint=resume, output_dir="b")
        arguments = SimpleNamespace(overwrite_output_dir=overwrites), training_args
        parser = SimpleNamespace(parse_args_and_config=lambda args: arguments)

        def make_trainer(*arguments):
            raise ValueError("it came so far")

        with pytest.raises(SystemExit) as error:
            run("prog", lambda prog: parser, make_trainer, [])
        return str(error.value)

    return started


class TestRun:
    @pytest.mark.parametrize(
        ("resume", "overwrites", "message"),
        [
            ("a/checkpoint-100", False, "b holds results of an earlier run (checkpoint-200)"),
            ("a/checkpoint-100", True, "it came so far"),
            ("b/checkpoint-200", False, "it came so far"),
            ("b/checkpoint-200", True, "resume_from_checkpoint goes on with a run that overwrite_output_dir would"),
            (True, False, "it came so far"),
        ],
    )
    def test_goes_on_with_the_results_of_another_run_only_in_its_own_directory(
        self, start, resume, overwrites, message
    ):
        assert start(resume, overwrites).startswith(f"prog: error: {message}")
