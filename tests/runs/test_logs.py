import logging
import subprocess
import sys
import warnings

import pytest
from accelerate import PartialState
from accelerate.logging import get_logger

from rest_trl.runs import logs


def configure(monkeypatch, *handlers):
    """Configure the logging of a program whose root logger has `handlers`; inside a test, as pytest adds its own."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(handlers))
    monkeypatch.setattr(logging.getLogger("rest_trl"), "level", logging.NOTSET)
    monkeypatch.setattr("transformers.utils.logging.disable_progress_bar", lambda: None)
    monkeypatch.setattr("datasets.disable_progress_bars", lambda: None)
    logs.configure_logging()
    return root


class TestConfigureLogging:
    @pytest.mark.parametrize(("processes", "rank"), [(1, ""), (2, "[RANK 0] ")])
    def test_names_the_rank_only_among_several(self, capsys, monkeypatch, processes, rank):
        configure(monkeypatch)
        state = PartialState()
        monkeypatch.setitem(state._shared_state, "num_processes", processes)
        get_logger("rest_trl.train").info("Model saved to out")
        get_logger("trl.trainer").warning("a warning of TRL")
        get_logger("trl.trainer").info("chatter")
        assert capsys.readouterr().err.splitlines() == [
            f"{rank}Model saved to out",
            f"warning: {rank}a warning of TRL",
        ]

    def test_says_once_why_the_hub_cannot_be_reached(self, capsys, monkeypatch):
        configure(monkeypatch)
        client = logging.getLogger("huggingface_hub.utils._http")
        for number, file in enumerate(("config.json", "tokenizer.json"), start=1):
            client.warning(f"'no network' thrown while requesting HEAD https://huggingface.co/a/b/{file}")
            client.warning(f"Retrying in 8s [Retry {number}/5].")
        client.warning("another warning")
        assert [line[:23] for line in capsys.readouterr().err.splitlines()] == [
            "warning: 'no network' t",
            "warning: another warnin",
        ]

    def test_keeps_the_handlers_of_the_user(self, monkeypatch):
        handler = logging.NullHandler()
        assert configure(monkeypatch, handler).handlers == [handler]

    def test_leaves_out_what_transformers_says_of_trl_s_own_arguments(self, monkeypatch):
        with warnings.catch_warnings(record=True) as found:
            configure(monkeypatch, logging.NullHandler())
            warnings.warn("`gradient_checkpointing` is deprecated and will be removed in v6.", FutureWarning)
            warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed in v6.", FutureWarning)
            warnings.warn("`another` is deprecated and will be removed in v6.", FutureWarning)
        assert [str(warning.message)[:9] for warning in found] == ["`another`"]


class TestKernelsWarning:
    @pytest.mark.parametrize("is_quantized", [True, False])
    def test_comes_if_the_run_uses_the_kernel(self, is_quantized):
        program = (
            "import logging, rest_trl.runs.logs\n"
            "from rest_trl.runs.logs import release_kernels_warning\n"
            "logger = logging.getLogger('bitsandbytes.backends.cpu.ops')\n"
            "logger.warning('Failed to load')\n"
            f"release_kernels_warning({is_quantized})\n"
            "logger.warning('another')\n"
        )
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert run.stderr.splitlines() == ["Failed to load"] * is_quantized + ["another"]

    def test_is_held_back_before_the_training_program_imports_peft(self):
        program = (
            "import importlib.abc, logging, os, sys\n"
            "class Finder(importlib.abc.MetaPathFinder):\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'peft':\n"
            "            print(bool(logging.getLogger('bitsandbytes.backends.cpu.ops').filters), flush=True)\n"
            "            os._exit(0)\n"  # nothing that is imported later matters
            "sys.meta_path.insert(0, Finder())\n"
            "import rest_trl.train\n"
        )
        pytest.importorskip("peft")
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert run.stdout == "True\n"
