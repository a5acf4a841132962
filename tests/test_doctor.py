import importlib.metadata
import json
import os
import subprocess
import sys
import textwrap
from collections import namedtuple
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from engines.fake_vllm import CONFIG, FakeVLLM
from transformers import Qwen3Config

from rest_trl import doctor
from rest_trl.doctor import machine, packages, probe, recipe
from rest_trl.doctor.server import recipe_server_url, server_findings


ROOT = Path(__file__).parents[1]
DEMO = yaml.safe_load((ROOT / "recipes" / "demo.yaml").read_text())
SERVER_INFO = {"vllm_config": CONFIG}


def run_doctor(*arguments, path=None):
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    command = [sys.executable, "-m", "rest_trl.cli", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def statuses(findings):
    return {finding.name: finding.status for finding in findings}


class TestCommand:
    def test_shows_its_arguments(self):
        run = run_doctor("--help")
        assert run.returncode == 0
        assert all(argument in run.stdout for argument in ("--config", "--server", "--json"))

    def test_reports_a_recipe_that_runs_here(self, tmp_path, fork_server):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**DEMO, "output_dir": str(tmp_path)}))
        (run,) = fork_server.start("-m", "rest_trl.cli", "doctor", "--config", path, "--json").wait()
        findings = {finding["name"]: finding for finding in json.loads(run.stdout)}
        problems = [finding for finding in findings.values() if finding["status"] == "problem"]
        assert not problems and run.returncode == 0
        assert findings["trl"]["found"].startswith(importlib.metadata.version("trl"))
        assert findings["Recipe: tool_call_syntax"]["found"].startswith("hermes")

    def test_goes_on_where_packages_are_broken(self, tmp_path):
        (tmp_path / "sitecustomize.py").write_text(
            textwrap.dedent("""
            import sys
            class Blocker:
                def find_spec(self, name, path=None, target=None):
                    if name in ("trl", "datasets"):
                        raise ImportError(f"{name} is blocked")
            sys.meta_path.insert(0, Blocker())
            """)
        )
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**DEMO, "dataset_name": str(tmp_path)}))
        run = run_doctor("--config", str(path), "--json", path=tmp_path)
        assert run.returncode == 1, run.stderr
        found = {finding["name"]: finding for finding in json.loads(run.stdout)}
        assert "trl is blocked" in found["trl"]["found"] and "datasets is blocked" in found["datasets"]["found"]
        assert found["trl"]["status"] == found["Recipe"]["status"] == "problem"
        assert found["torch"]["status"] == found["Recipe: model"]["status"] == "ok"

    @pytest.mark.parametrize("content", ["a: [", "just text", None])
    def test_names_a_recipe_that_cannot_be_read(self, monkeypatch, tmp_path, content, capsys):
        monkeypatch.setattr(probe, "probe", lambda names: {"gpus": [], "cuda": None})
        path = tmp_path / "recipe.yaml"
        if content is not None:
            path.write_text(content)
        with pytest.raises(SystemExit) as error:
            doctor.main(["--config", str(path), "--json"])
        assert error.value.code == 1
        found = {finding["name"]: finding["status"] for finding in json.loads(capsys.readouterr().out)}
        assert found["Recipe"] == "problem"

    def test_prints_a_table(self, monkeypatch, capsys):
        monkeypatch.setattr(
            probe, "probe", lambda names: {"gpus": [], "cuda": None, "trl": "Error: [bold]x[/nothing]"}
        )
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as error:
            doctor.main([])
        out = capsys.readouterr().out
        assert error.value.code == 1 and "[bold]x[/nothing]" in out and "1 problem, " in out


class TestProbe:
    def test_outlives_a_package_that_ends_the_process(self, tmp_path, monkeypatch):
        (tmp_path / "deadly.py").write_text("import os; os._exit(7)")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        learned = probe.probe(["json", "deadly", "yaml"])
        assert learned["json"] is None and "ended with 7" in learned["deadly"]
        assert "not tried, because deadly" in learned["yaml"] and "gpus" not in learned
        assert machine.gpu_finding(learned).status == "problem"


class TestPackages:
    def test_ranges_are_those_of_the_metadata(self, monkeypatch):
        assert packages.supported("trl") == ">=1.16,<1.17"
        monkeypatch.setattr(packages, "installed_version", lambda name: None)
        needed = {finding.name for finding in packages.package_findings({}) if finding.status == "problem"}
        assert {"torch", "trl", "transformers", "requests"} <= needed and not {"peft", "pytest"} & needed
        vllm = packages.supported("vllm")
        assert "0.22.0" in vllm and "0.31.0" in vllm and "0.21.0" not in vllm and "0.32.0" not in vllm

    @pytest.mark.parametrize(
        ("name", "version", "needed", "status"),
        [
            ("trl", "1.16.2", False, "ok"),
            ("trl", "1.17.0", False, "problem"),
            ("trl", None, False, "problem"),
            ("vllm", "0.31.0+cpu", False, "ok"),
            ("vllm", "0.32.0", False, "warning"),
            ("vllm", None, False, "ok"),
            ("vllm", None, True, "problem"),
        ],
    )
    def test_versions(self, monkeypatch, name, version, needed, status):
        monkeypatch.setattr(packages, "installed_version", lambda name: version)
        finding = packages.package_finding(name, None, needed)
        assert finding.status == status
        assert (version or "not installed") in finding.found
        assert status != "problem" or finding.cure.startswith(f"pip install '{name}")

    def test_of_another_distribution(self):
        assert packages.installed_version("yaml") == importlib.metadata.version("PyYAML")
        assert packages.installed_version("no_such_package") is None

    def test_an_import_that_fails(self):
        assert packages.package_finding("peft", "ImportError: x").status == "warning"
        assert packages.package_finding("peft", "ImportError: x", needed=True).status == "problem"

    def test_python_outside_the_range(self, monkeypatch):
        assert packages.python_finding().status == "ok"
        monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
        assert packages.python_finding().status == "problem"


class TestMachine:
    def test_gpus(self):
        gpu = {"name": "A", "memory": 80 * 1024**3, "capability": "9.0", "bf16": True}
        assert machine.gpu_finding({"gpus": [gpu], "cuda": "12.8"}).found.startswith(
            "A, 80 GiB, compute capability 9.0"
        )
        assert machine.gpu_finding({"gpus": [gpu, {**gpu, "bf16": False}], "cuda": "12.8"}).status == "warning"
        assert machine.gpu_finding({"gpus": [], "cuda": "12.8"}).status == "warning"

    @pytest.mark.parametrize(("free", "status"), [(0, "problem"), (5, "warning"), (500, "ok")])
    def test_disk(self, monkeypatch, tmp_path, free, status):
        usage = namedtuple("usage", "free")
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage(free * 1024**3))
        finding = machine.disk_finding("disk", tmp_path / "not" / "yet", "free some")
        assert finding.status == status and bool(finding.cure) == (status != "ok")

    def test_a_token_is_never_shown(self, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        findings = list(machine.hub_findings())
        assert findings[0].status == "ok" and "a token" in findings[0].found
        assert "hf_secret" not in repr(findings)

    def test_a_run_that_pushes_needs_a_token(self, monkeypatch, tmp_path):
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        assert next(machine.hub_findings(pushes=True)).status == "problem"

    @pytest.mark.parametrize(
        ("config", "gpus", "status"),
        [
            ({"use_cpu": True, "num_processes": 2, "distributed_type": "MULTI_CPU"}, 0, "warning"),
            ({"use_cpu": True, "num_processes": 1, "distributed_type": "NO"}, 0, "ok"),
            ({"num_processes": 4, "distributed_type": "MULTI_GPU"}, 1, "problem"),
            ({"num_processes": 4, "distributed_type": "MULTI_GPU"}, 4, "ok"),
        ],
    )
    def test_launcher(self, tmp_path, config, gpus, status):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        assert machine.launch_finding(path, gpus).status == status

    def test_launcher_without_a_config(self, tmp_path):
        assert "runs ONE process" in machine.launch_finding(tmp_path / "none.yaml", 0).cure
        (tmp_path / "broken.yaml").write_text("a: [")
        assert machine.launch_finding(tmp_path / "broken.yaml", 0).status == "problem"


class TestRecipe:
    def findings(self, tmp_path, gpus=0, **changes):
        values = {**DEMO, "output_dir": str(tmp_path / "output"), **changes}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        return {f.name: f for f in recipe.recipe_findings(path, values, {}, gpus)}

    @pytest.mark.parametrize(
        ("changes", "name", "cause"),
        [
            ({"learning_rat": 1e-4}, "Recipe", "learning_rat"),
            ({"coefficients": "entropie"}, "Recipe", "entropie"),
            ({"max_steps": "many"}, "Recipe", "many"),
            ({"model_name_or_path": "./no/model"}, "Recipe: model", "./no/model"),
            ({"model_name_or_path": None}, "Recipe: model", "none"),
            ({"tool_call_syntax": "morse"}, "Recipe: tool_call_syntax", "morse"),
            ({"dataset_name": "data/none.parquet"}, "Recipe: data set", "there is no data/none.parquet"),
            ({"dataset_name": "owner/none"}, "Recipe: data set", "owner/none"),
            ({"use_cpu": False}, "Recipe: device", "no GPU"),
            ({"deepspeed": "zero3.json"}, "Recipe: deepspeed", "not installed"),
            ({"output_dir": __file__}, "Recipe: output_dir", "is a file"),
        ],
    )
    def test_names_what_would_fail(self, tmp_path, changes, name, cause):
        finding = self.findings(tmp_path, **changes)[name]
        assert finding.status == "problem" or name == "Recipe: device"
        assert cause in finding.found and finding.cure

    def test_is_content_with_the_demo(self, monkeypatch, tmp_path):
        usage = namedtuple("usage", "free")
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage(500 * 1024**3))
        findings = self.findings(tmp_path, tool_call_syntax=None)
        assert {finding.status for finding in findings.values()} == {"ok"}
        assert findings["Recipe: tool_call_syntax"].found == "hermes, from the chat template"

    def test_packages_that_a_run_needs(self):
        values = {"use_peft": True, "load_in_4bit": True, "use_vllm": True, "report_to": ["wandb", "mlflow"]}
        assert recipe.needed_packages(values, {}) == ["peft", "bitsandbytes", "vllm", "wandb"]
        assert recipe.needed_packages({"report_to": "trackio"}, {}) == ["trackio"]
        for name in ("zero3", "zero3_offload"):
            config = machine.read_launch_config(ROOT / "recipes" / "accelerate" / f"{name}.yaml")
            assert recipe.needed_packages({}, config) == ["deepspeed"]

    @pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
    def test_finds_the_server_of_every_recipe(self, path):
        values = recipe.read_recipe(path)
        stated = values.get("vllm_server_base_url", "http://0.0.0.0:8000")
        url = stated if values.get("vllm_mode") == "server" else None
        assert recipe_server_url(recipe.with_defaults(values)) == url


class TestMemory:
    RECIPE = ROOT / "recipes" / "qwen3_4b_2507_lora_24gb.yaml"

    def finding(self, tmp_path, gpus=(), launch_config=None, path=RECIPE, **changes):
        """What is found of a recipe whose model is a configuration of the size of Qwen3-4B."""
        model = tmp_path / "model"
        Qwen3Config(
            num_hidden_layers=36, hidden_size=2560, intermediate_size=9728, num_attention_heads=32, head_dim=128,
            num_key_value_heads=8, tie_word_embeddings=True,
        ).save_pretrained(model)  # fmt: skip
        values = yaml.safe_load(path.read_text()) | {"model_name_or_path": str(model)} | changes
        learned = {"gpus": [{"memory": size * 2**30} for size in gpus], "launch_config": launch_config or {}}
        return [*recipe.memory_findings(path, values, learned), None][0]

    def test_a_recipe_fits_the_card_that_it_is_meant_for(self, tmp_path):
        finding = self.finding(tmp_path)
        assert finding.status == "ok"
        assert "about 21.7 GiB, computed and not measured, and such a card offers 22.5" in finding.found
        assert finding.found.endswith("vLLM writes 5 of the longest completions at once")

    def test_a_gpu_counts_before_the_card_that_is_meant_and_the_smallest_of_several(self, tmp_path):
        finding = self.finding(tmp_path, gpus=(79.0, 15.5))
        assert finding.status == "problem" and "the card has 15.5" in finding.found
        assert "vllm_enable_sleep_mode" in finding.cure
        assert self.finding(tmp_path, gpus=(79.0,)).status == "ok"

    def test_a_share_that_holds_no_completion_is_a_problem(self, tmp_path):
        finding = self.finding(tmp_path, vllm_gpu_memory_utilization=0.4)
        assert finding.status == "problem" and finding.cure == "raise vllm_gpu_memory_utilization"

    def test_little_room_is_a_warning(self, tmp_path):
        assert self.finding(tmp_path, gpus=(22.0,), vllm_gpu_memory_utilization=0.5).status == "warning"

    def test_says_which_runs_it_estimates(self, tmp_path):
        assert self.finding(tmp_path, use_peft=False).found.startswith("not estimated: estimated are LoRA and QLoRA")

    def test_says_nothing_of_runs_without_a_card_or_with_a_model_in_shards(self, tmp_path):
        assert self.finding(tmp_path, path=ROOT / "recipes" / "demo.yaml") is None
        assert self.finding(tmp_path, gpus=(79.0,), use_cpu=True) is None
        assert self.finding(tmp_path, gpus=(79.0,), launch_config={"distributed_type": "FSDP"}) is None


@pytest.fixture
def serve():
    with ExitStack() as servers:

        def start(info=SERVER_INFO, models={"data": [{"id": "alias"}]}):  # noqa: B006
            answers = {"/v1/models": models, "/server_info": info}
            return servers.enter_context(FakeVLLM(answers)).url

        yield start


def changed(**settings):
    config = SERVER_INFO["vllm_config"]
    own = {name: settings.pop(name) for name in list(settings) if name in config}
    return {"vllm_config": {**config, "model_config": {**config["model_config"], **settings}, **own}}


class TestServer:
    def test_one_that_is_right(self, serve):
        values = {"model_name_or_path": "served", "max_prompt_length": 128, "max_completion_length": 128}
        findings = list(server_findings(serve() + "/", values))
        assert set(statuses(findings).values()) == {"ok"} and len(findings) == 5

    def test_no_server(self):
        with FakeVLLM() as server:
            url = server.url
        (finding,) = server_findings(url, {"model_name_or_path": "org/model"})
        assert finding.status == "problem" and "vllm serve org/model" in finding.cure

    @pytest.mark.parametrize("models", [b"<html>", b"[]", b'{"data": [{}]}'])
    def test_something_else_at_the_address(self, serve, models):
        (finding,) = server_findings(serve(models=models), {})
        assert finding.status == "problem"

    @pytest.mark.parametrize("url", ["localhost:8000", "http://", "nonsense"])
    def test_an_address_that_is_none(self, url):
        (finding,) = server_findings(url, {})
        assert finding.status == "problem"

    def test_without_dev_mode(self, serve):
        findings = list(server_findings(serve(info=None), {}))
        assert statuses(findings) == {"Server": "ok", "Server: mode": "problem"}
        assert "VLLM_SERVER_DEV_MODE=1" in findings[-1].cure

    @pytest.mark.parametrize(
        ("info", "values", "name", "status"),
        [
            (changed(weight_transfer_config=None), {}, "Server: weight transfer", "problem"),
            (changed(logprobs_mode="raw_logprobs"), {}, "Server: logprobs", "warning"),
            (
                changed(logprobs_mode="raw_logprobs"),
                {"vllm_importance_sampling_correction": False},
                "Server: logprobs",
                "ok",
            ),
            (SERVER_INFO, {"max_completion_length": 256}, "Server: length", "problem"),
            (SERVER_INFO, {"max_completion_length": 255}, "Server: length", "ok"),
            (
                SERVER_INFO,
                {"max_completion_length": 128, "environment_factory": "a.world"},
                "Server: length",
                "warning",
            ),
            (SERVER_INFO, {"max_completion_length": 127, "environment_factory": "a.world"}, "Server: length", "ok"),
            (SERVER_INFO, {"model_name_or_path": "other"}, "Server: model", "warning"),
            ({"vllm_config": "text"}, {}, "Server: mode", "problem"),
        ],
    )
    def test_settings(self, serve, info, values, name, status):
        findings = list(server_findings(serve(info), values))
        assert statuses(findings)[name] == status
        assert status == "ok" or next(f for f in findings if f.name == name).cure
