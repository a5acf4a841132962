import signal
from subprocess import CalledProcessError

import pytest
from torch.distributed.elastic.multiprocessing import SignalException

from rest_trl.runs import launching
from rest_trl.runs.launching import launcher_options


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """What is handed to `accelerate launch`, on a machine without a configuration of its own."""
    namespaces = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", namespaces.append)
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(tmp_path / "none.yaml"))
    return namespaces


class TestLaunch:
    @pytest.mark.parametrize("joined", [False, True])
    def test_hands_the_accelerate_config_to_the_launcher(self, launched, tmp_path, joined):
        config = tmp_path / "ddp.yaml"
        config.touch()
        option = [f"--accelerate_config={config}"] if joined else ["--accelerate_config", str(config)]
        launching.main(["--config", "demo", *option, "--max_steps", "3"])
        (namespace,) = launched
        assert namespace.config_file == str(config)
        assert namespace.module and namespace.training_script == "rest_trl.train"
        assert namespace.training_script_args == ["--config", "demo", "--max_steps", "3"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--accelerate_config"], "--accelerate_config needs a file"),
            (["--accelerate_config="], "--accelerate_config needs a file"),
            (["--accelerate_config", "none.yaml"], "--accelerate_config: there is no file none.yaml"),
            (["--config", "dmo"], "there is no file dmo, and no recipe of this name: do you mean demo?"),
            (["--config"], "--config needs a file"),
            (["--config", "demo", "--arm", "rest", "--arm=gdop"], "there is no arm gdop: do you mean gdpo?"),
            ([], "there is nothing to train: give --config RECIPE (rest-trl recipes lists"),
        ],
    )
    def test_says_at_once_what_is_wrong_with_its_files(self, launched, arguments, message):
        with pytest.raises(SystemExit) as error:
            launching.main(arguments)
        assert error.value.code.startswith(f"rest-trl train: error: {message}") and "\n" not in error.value.code
        assert not launched

    @pytest.mark.parametrize(
        ("returncode", "status"),
        [
            (1, 1),
            (130, 130),
            (
                -9,
                "rest-trl train: error: the training program was killed by SIGKILL: perhaps the machine was out of "
                "memory",
            ),
            (-15, "rest-trl train: error: the training program was killed by SIGTERM"),
        ],
    )
    def test_ends_as_the_program_does(self, monkeypatch, launched, returncode, status):
        def fail(namespace):
            raise CalledProcessError(returncode, "python")

        monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
        with pytest.raises(SystemExit) as error:
            launching.main(["--config", "demo"])
        assert error.value.code == status

    def test_ends_with_the_status_of_ctrl_c_where_torchrun_takes_it(self, monkeypatch, launched):
        def fail(namespace):
            raise SignalException("got signal: 2", signal.SIGINT)

        monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
        with pytest.raises(SystemExit) as error:
            launching.main(["--config", "demo"])
        assert error.value.code == 130

    def test_leaves_the_handler_of_ctrl_c_as_it_was(self, launched):
        before = signal.getsignal(signal.SIGINT)
        launching.main(["--config", "demo"])
        assert signal.getsignal(signal.SIGINT) is before

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"max_steps: 1\n\tlr: 2\n", ", line 2, column 1 is not YAML: found character '\\t'"),
            (b"max_steps: [1\n", ", line 2, column 1 is not YAML: expected ',' or ']'"),
            (b"# \xe9\n", " is not UTF-8 text (byte 2): save it as such"),
            (b"- max_steps\n", " is not a YAML mapping of arguments to values"),
        ],
    )
    def test_names_the_recipe_that_cannot_be_read(self, launched, tmp_path, content, message):
        recipe = tmp_path / "mine.yaml"
        recipe.write_bytes(content)
        with pytest.raises(SystemExit) as error:
            launching.main([f"--config={recipe}"])
        assert error.value.code.startswith(f"rest-trl train: error: {recipe}{message}")
        assert "\n" not in error.value.code and not launched


class TestLauncherOptions:
    @pytest.mark.parametrize(("devices", "processes"), [(0, 1), (1, 1), (4, 4)])
    def test_are_what_accelerate_would_choose_so_that_it_lists_no_defaults(
        self, monkeypatch, launched, caplog, devices, processes
    ):
        from accelerate.commands import launch as accelerate_launch

        monkeypatch.setattr("torch.accelerator.device_count", lambda: devices)
        monkeypatch.setattr(accelerate_launch, "default_config_file", "none.yaml")
        launching.main(["--config", "demo"])
        arguments, _, _ = accelerate_launch._validate_launch_command(launched[0])
        assert (arguments.num_processes, arguments.multi_gpu) == (processes, processes > 1)
        assert (arguments.num_machines, arguments.mixed_precision, arguments.dynamo_backend) == (1, "no", "no")
        assert not caplog.records

    def test_are_left_to_the_configuration_of_the_user(self, monkeypatch, tmp_path):
        default = tmp_path / "default_config.yaml"
        default.touch()
        monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(default))
        assert launcher_options(None) == []
        assert launcher_options("ddp.yaml") == ["--config_file", "ddp.yaml"]
