import re
import subprocess
import sys
from pathlib import Path

import pytest

from rest_trl import __version__, cli


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["rest-trl", *arguments])
    cli.main()


@pytest.fixture
def launched(monkeypatch):
    """What is handed to `accelerate launch`."""
    namespaces = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", namespaces.append)
    return namespaces


class TestTrain:
    def test_is_accelerate_launch_of_the_program(self, monkeypatch, launched):
        run(monkeypatch, "train", "--config", "demo", "--max_steps", "3")
        (namespace,) = launched
        assert namespace.module and namespace.training_script == "rest_trl.train"
        assert namespace.training_script_args == ["--config", "demo", "--max_steps", "3"]
        assert namespace.config_file is None

    @pytest.mark.parametrize("flag", ["-h", "--help"])
    def test_shows_the_arguments_without_a_launch(self, monkeypatch, launched, capsys, flag):
        with pytest.raises(SystemExit) as error:
            run(monkeypatch, "train", flag)
        assert error.value.code == 0 and not launched
        assert capsys.readouterr().out.startswith("usage: rest-trl train [-h] [--config RECIPE]")


class TestMain:
    @pytest.mark.parametrize("arguments", [(), ("nonsense",)])
    def test_names_the_commands_there_are(self, monkeypatch, capsys, arguments):
        with pytest.raises(SystemExit) as error:
            run(monkeypatch, *arguments)
        assert error.value.code == 2
        assert "train" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "hint"),
        [
            (["trian"], "do you mean train?"),
            (["evaluate", "--backend", "servre"], "do you mean server?"),
            (["recipes", "--modle", "tiny"], "do you mean --model?"),
        ],
    )
    def test_names_what_was_meant(self, monkeypatch, capsys, arguments, hint):
        with pytest.raises(SystemExit):
            run(monkeypatch, *arguments)
        assert hint in capsys.readouterr().err.splitlines()[-1]

    def test_has_the_working_directory_on_the_path(self, tmp_path):
        (tmp_path / "in_this_folder.py").write_text("Mine = 3\n")
        # `-P` leaves it out, as the script of an installed package does.
        command = [sys.executable, "-P", "-m", "rest_trl.cli", "evaluate", "--benchmark", "in_this_folder.Mine"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert "'in_this_folder.Mine' is not a subclass of rest_trl.lab.evaluation" in done.stderr

    @pytest.mark.parametrize("command", ["inspect", "data", "data show", "doctor"])
    def test_help_imports_nothing_that_takes_seconds(self, command):
        code = (
            "import sys\nfrom rest_trl import cli\ntry:\n    cli.main()\nexcept SystemExit:\n"
            "    print({'torch', 'transformers', 'trl', 'datasets', 'pandas', 'numpy'} & set(sys.modules))"
        )
        arguments = [sys.executable, "-c", code, *command.split(), "--help"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert done.stdout.endswith("set()\n") and "usage: rest-trl" in done.stdout

    def test_finds_code_of_the_user_in_the_working_directory(self, monkeypatch, capsys, tmp_path):
        (tmp_path / "rules_of_mine.py").write_text("def double(mask, **kwargs):\n    return 2.0 * mask\n")
        (tmp_path / "completion.txt").write_text("Hello.")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # as of the installed command
        arguments = ("--model_name_or_path", "tiny", "--coefficients", "rules_of_mine.double")
        run(monkeypatch, "inspect", "completion.txt", *arguments)
        assert "coefficient 2.000" in capsys.readouterr().out

    def test_shows_no_warning_of_kernels_that_it_does_not_use(self, tmp_path):
        (tmp_path / "completion.txt").write_text("Hello.")
        command = [
            sys.executable,
            "-m",
            "rest_trl.cli",
            "inspect",
            str(tmp_path / "completion.txt"),
            "--model_name_or_path",
            "tiny",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "Hello." in done.stdout
        assert not done.stderr


class TestModules:
    """`python -m` of a module without its last two lines does nothing, and says nothing."""

    ROOT = Path(__file__).parents[1]
    NAMED = {
        name
        for path in (*ROOT.glob("docs/*.md"), *ROOT.glob("recipes/**/*.yaml"), ROOT / "README.md", ROOT / "Makefile")
        for name in re.findall(r"-m (rest_trl[\w.]*)", path.read_text(encoding="utf-8"))
    }
    # What launches another program is a command alone.
    COMMANDS = {module for module, *_ in cli._COMMANDS.values() if not module.endswith((".launching", ".sft"))}

    @pytest.mark.parametrize("module", sorted(NAMED | COMMANDS))
    def test_can_be_run(self, module):
        path = self.ROOT / module.replace(".", "/")
        source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert source.read_text(encoding="utf-8").endswith('if __name__ == "__main__":\n    main()\n')

    def test_show_what_they_show_as_a_command(self, tmp_path, fork_server):
        (tmp_path / "completion.txt").write_text("Hello.")
        (end,) = fork_server.run(
            "-m", "rest_trl.lab.inspect", tmp_path / "completion.txt", "--model_name_or_path", "tiny"
        )
        assert "Hello." in end.stdout


class TestHelp:
    HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "pandas", "scipy", "matplotlib")

    @pytest.mark.parametrize("command", sorted(set(cli._COMMANDS) - {"train", "sft"}))
    def test_imports_nothing_that_is_slow(self, command):
        program = (
            "import sys\n"
            f"sys.argv = ['rest-trl', {command!r}, '--help']\n"
            "from rest_trl.cli import main\n"
            "try:\n"
            "    main()\n"
            "finally:\n"
            f"    print([name for name in {self.HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"usage: rest-trl {command} ") and done.stderr == "[]\n"

    def test_of_the_version_is_one_line(self, monkeypatch, capsys):
        with pytest.raises(SystemExit) as error:
            run(monkeypatch, "--version")
        assert error.value.code == 0 and capsys.readouterr().out == f"rest-trl {__version__}\n"
