import importlib.metadata
import json
import os
import re
import subprocess
import sys
import textwrap
from collections import namedtuple
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from engines.fake_vllm import CONFIG, FakeVLLM
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config
from trl import ModelConfig

from rest_trl import ResTGRPOConfig
from rest_trl.lab import doctor
from rest_trl.lab.doctor import machine, memory, packages, probe, recipe
from rest_trl.lab.doctor.recipe import DEFAULTS
from rest_trl.lab.doctor.vllm_server import recipe_server_url, server_findings
from rest_trl.lab.sft import ResTSFTConfig
from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.runs.listing import read_table
from rest_trl.runs.recipes import read_recipe


ROOT = Path(__file__).parents[1]
TABLES = {ROOT / "recipes" / f"{name}.yaml" for name in ("arms", "studies")}
RECIPES = sorted({*ROOT.glob("recipes/*.yaml"), *ROOT.glob("recipes/tiny/*.yaml")} - TABLES)
GPU = {"name": "A", "memory": 80 * 1024**3, "capability": "9.0", "bf16": True}
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

    @pytest.mark.parametrize("content", ["a: [", "just text"])
    def test_tells_how_to_mend_a_recipe_that_is_no_mapping(self, monkeypatch, tmp_path, content):
        monkeypatch.setattr(probe, "probe", lambda names: {"gpus": [], "cuda": None})
        path = tmp_path / "recipe.yaml"
        path.write_text(content)
        cures = {finding.name: finding.cure for finding in doctor.examine(path)}
        assert "YAML mapping" in cures["Recipe"] and "lists" not in cures["Recipe"]
        assert "rest-trl recipes lists" in {f.name: f.cure for f in doctor.examine(tmp_path / "none.yaml")}["Recipe"]

    def test_takes_the_name_of_an_accelerate_config(self, monkeypatch):
        monkeypatch.setattr(probe, "probe", lambda names: {"gpus": [{**GPU}] * 4, "cuda": "12.8"})
        (launcher,) = (f for f in doctor.examine(accelerate_config=Path("ddp")) if f.name == "Launcher")
        assert launcher.status == "ok" and str(ROOT / "recipes" / "accelerate" / "ddp.yaml") in launcher.found
        (launcher,) = (f for f in doctor.examine(accelerate_config=Path("dpd")) if f.name == "Launcher")
        assert launcher.status == "problem" and "its names are ddp, fsdp2" in launcher.found and launcher.cure

    def test_goes_on_to_the_server_where_trl_is_broken(self, monkeypatch, tmp_path):
        monkeypatch.setattr(probe, "probe", lambda names: {"gpus": [], "cuda": None})
        for module in ("rest_trl.config", "rest_trl.train"):
            monkeypatch.setitem(sys.modules, module, None)
        with FakeVLLM() as server:
            url = server.url
        path = tmp_path / "recipe.yaml"
        server_mode = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": url}
        path.write_text(yaml.safe_dump({**DEMO, "output_dir": str(tmp_path), **server_mode}))
        findings = {finding.name: finding for finding in doctor.examine(path)}
        assert findings["Recipe"].status == "problem" and url in findings["Server"].found

    def test_examines_every_arm_of_a_study(self, monkeypatch, tmp_path):
        monkeypatch.setattr(probe, "probe", lambda names: {"gpus": [], "cuda": None})
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(DEMO))
        arms = {"one": {}, "two": {"model_name_or_path": "./no/model"}, "three": {"dataset_name": "tiny/calls"}}
        content = {"recipe": "recipe.yaml", "arms": arms, "baseline": "one", "output_dir": str(tmp_path / "study")}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        findings = [finding for finding in doctor.examine(path) if finding.name.startswith("Recipe")]
        assert len(set(findings)) == len(findings)
        found = [finding.found for finding in findings]
        assert f"{path} parses for rest-trl study" in found
        assert {"tiny, in the package", "tiny/calls, in the package"} <= set(found)
        assert sum(text.startswith("./no/model: ") for text in found) == 1
        assert [text for text in found if text.startswith(str(tmp_path / "study"))]

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

    def put_torch(self, tmp_path, monkeypatch, count):
        """Put a package `torch` first on the path, whose `cuda.device_count` is this function."""
        (tmp_path / "torch.py").write_text(
            textwrap.dedent(f"""
            import os
            from types import SimpleNamespace
            def device_count():
                {count}
            cuda = SimpleNamespace(device_count=device_count)
            version = SimpleNamespace(cuda="12.8", hip=None)
            """)
        )
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))

    def test_names_the_error_of_torch_that_sees_no_gpus(self, tmp_path, monkeypatch):
        self.put_torch(tmp_path, monkeypatch, "raise RuntimeError('the driver is too old')")
        learned = probe.probe(["torch", "yaml"])
        assert learned["torch"] is None and learned["yaml"] is None
        finding = machine.gpu_finding(learned)
        assert finding.status == "problem" and "the driver is too old" in finding.found
        assert "cannot be imported" not in finding.found

    def test_a_look_for_gpus_that_ends_the_process_is_no_fault_of_the_next_package(self, tmp_path, monkeypatch):
        self.put_torch(tmp_path, monkeypatch, "os._exit(7)")
        learned = probe.probe(["torch", "yaml"])
        assert learned["torch"] is None and "not tried" in learned["yaml"]
        assert "ended with 7" in machine.gpu_finding(learned).found

    def test_a_later_package_that_ends_the_process_hides_neither_gpus_nor_accelerate(self, tmp_path, monkeypatch):
        self.put_torch(tmp_path, monkeypatch, "return 0")
        folder = tmp_path / "accelerate" / "commands" / "config"
        folder.mkdir(parents=True)
        (tmp_path / "accelerate" / "__init__.py").write_text("")
        (folder / "config_args.py").write_text("default_config_file = 'here.yaml'")
        (tmp_path / "deadly.py").write_text("import os; os._exit(7)")
        learned = probe.probe(["torch", "accelerate", "deadly"])
        assert learned["gpus"] == [] and learned["cuda"] == "12.8" and learned["accelerate_config"] == "here.yaml"
        assert "ended with 7" in learned["deadly"]

    def test_names_the_error_of_accelerate_that_does_not_know_its_config(self, monkeypatch):
        learned = {"gpus": [], "cuda": None, "accelerate_config_error": "ImportError: x"}
        monkeypatch.setattr(probe, "probe", lambda names: learned)
        (launcher,) = (finding for finding in doctor.examine() if finding.name == "Launcher")
        assert launcher.status == "problem" and "ImportError: x" in launcher.found
        (launcher,) = (f for f in doctor.examine(accelerate_config=Path("ddp")) if f.name == "Launcher")
        assert "ImportError: x" not in launcher.found

    def test_unknown_gpus_are_not_said_to_be_none(self, monkeypatch):
        monkeypatch.setattr(probe, "probe", lambda names: {"torch": None, "gpus_error": "RuntimeError: x"})
        findings = {f.name: f for f in doctor.examine(Path("qwen3_1.7b_lora_24gb"), accelerate_config=Path("ddp"))}
        assert findings["GPU"].found == "unknown: RuntimeError: x"
        assert "Recipe: device" not in findings and findings["Launcher"].status == "ok"


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
        wanted = "pip install 'rest-trl[vllm]'" if name == "vllm" else f"pip install '{name}"
        assert status != "problem" or finding.cure.startswith(wanted)

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
        assert machine.gpu_finding({"gpus": [GPU], "cuda": "12.8"}).found.startswith(
            "A, 80 GiB, compute capability 9.0"
        )
        assert machine.gpu_finding({"gpus": [GPU, {**GPU, "bf16": False}], "cuda": "12.8"}).status == "warning"
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

    def test_says_whether_the_hub_answers(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        with FakeVLLM() as server:
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
            assert machine.hub_error() is None
        error = machine.hub_error()
        assert error is not None
        (finding, _) = machine.hub_findings(error=error)
        assert finding.status == "warning" and f"{server.url} cannot be reached: {error}" in finding.found
        assert "HF_HUB_OFFLINE=1" in finding.cure
        assert next(machine.hub_findings(pushes=True, error=error)).status == "problem"

    def test_asks_the_hub_where_nothing_has_imported_it(self):
        with FakeVLLM() as server:
            environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url}
            code = "from rest_trl.lab.doctor.machine import hub_error; print(hub_error())"
            run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert run.stdout == "None\n"

    def test_does_not_ask_the_hub_offline(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.get_session", None)
        assert machine.hub_error() is None

    @pytest.mark.parametrize(
        ("config", "gpus", "status"),
        [
            ({"use_cpu": True, "num_processes": 2, "distributed_type": "MULTI_CPU"}, 0, "warning"),
            ({"use_cpu": True, "num_processes": 1, "distributed_type": "NO"}, 0, "ok"),
            ({"num_processes": 4, "distributed_type": "MULTI_GPU"}, 1, "problem"),
            ({"num_processes": 4, "distributed_type": "MULTI_GPU"}, 4, "ok"),
            ({"num_processes": 16, "num_machines": 2, "distributed_type": "MULTI_GPU"}, 8, "ok"),
            ({"num_processes": 16, "num_machines": 2, "distributed_type": "MULTI_GPU"}, 4, "problem"),
        ],
    )
    def test_launcher(self, tmp_path, config, gpus, status):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        assert machine.launch_finding(path, gpus).status == status

    def test_processes_are_counted_over_all_machines(self, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"num_processes": 16, "num_machines": 2, "distributed_type": "MULTI_GPU"}))
        finding = machine.launch_finding(path, 4)
        assert "4 GPUs here" in finding.found and finding.cure.startswith("--num_processes 8,")

    def test_launcher_without_a_config(self, tmp_path):
        assert "runs ONE process" in machine.launch_finding(tmp_path / "none.yaml", 0).cure
        (tmp_path / "broken.yaml").write_text("a: [")
        assert machine.launch_finding(tmp_path / "broken.yaml", 0).status == "problem"


class TestRecipe:
    def findings(self, tmp_path, gpus=0, learned={}, **changes):  # noqa: B006
        values = {**DEMO, "output_dir": str(tmp_path / "output"), **changes}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        return {f.name: f for f in recipe.recipe_findings(path, values, learned, gpus)}

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

    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
    def test_every_recipe_of_the_package_parses(self, path):
        found = next(recipe.recipe_findings(path, read_recipe(path), {}, 0))
        assert found.name == "Recipe" and found.status == "ok", found.found

    @pytest.mark.parametrize("study", read_table("studies"))
    def test_every_study_of_the_package_parses(self, study):
        path = ROOT / "recipes" / "studies.yaml"
        found = next(recipe.recipe_findings(path, read_recipe(path), {}, 0, study=study))
        assert found.status == "ok" and "parses for rest-trl study" in found.found

    def test_asks_for_the_study_where_there_are_several(self):
        path = ROOT / "recipes" / "studies.yaml"
        found = next(recipe.recipe_findings(path, read_recipe(path), {}, 0))
        assert found.status == "problem" and "choose one of demo, decides" in found.found

    def test_checks_the_recipe_with_an_arm(self, monkeypatch):
        monkeypatch.setattr(probe, "probe", lambda names: {"gpus": [{**GPU}], "cuda": "12.8"})
        findings = {finding.name: finding for finding in doctor.examine(Path("demo"), arms=["lora", "grpo"])}
        assert findings["Recipe"].status == "ok" and "Recipe: peft" in findings
        (found,) = (f for f in doctor.examine(Path("demo"), arms=["gdop"]) if f.name == "Recipe")
        assert found.status == "problem" and "do you mean gdpo?" in found.found

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("# rest-trl sft --config x\nmax_steps: 1", "sft"),
            ("# accelerate launch -m rest_trl.lab.sft --config x\nmax_steps: 1", "sft"),
            ("# vllm serve m\n# rest-trl train --config x\nmax_steps: 1", "train"),
            ("# rest-trl study --config x\nbaseline: a", "study"),
            ("arms: {a: {}}", "study"),
            ("reasoning_weight: 2.0", "sft"),
            ("max_steps: 1", "train"),
        ],
    )
    def test_a_recipe_is_of_the_program_that_its_head_or_its_arguments_name(self, tmp_path, text, kind):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        assert recipe.kind_of(path, read_recipe(path)) == kind

    def test_arguments_that_tell_sft_are_of_sft_alone(self):
        sft, train = ({field.name for field in fields(config)} for config in (ResTSFTConfig, ResTGRPOConfig))
        assert sft - train >= recipe.SFT_ARGUMENTS

    @pytest.mark.parametrize(
        ("changes", "cause"),
        [
            ({"arms": {"a": {"learning_rat": 1.0}}}, "arm a: the recipe has unknown argument learning_rat"),
            ({"arms": {"a": {"max_steps": "many"}}}, "many"),
            ({"seedz": 1}, "unknown key 'seedz'"),
            ({"recipe": "none.yaml"}, "none.yaml"),
            ({"baseline": "b"}, "there is no arm 'b'"),
        ],
    )
    def test_names_what_is_wrong_in_a_study(self, tmp_path, changes, cause):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(DEMO))
        study = {"recipe": "recipe.yaml", "arms": {"a": {}}, "baseline": "a", "output_dir": str(tmp_path), **changes}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(study))
        finding = next(recipe.recipe_findings(path, study, {}, 0))
        assert finding.status == "problem" and cause in finding.found and finding.cure

    def test_a_model_in_the_home_directory_is_found(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "model").symlink_to(TINY_MODEL_DIR)
        assert self.findings(tmp_path, model_name_or_path="~/model")["Recipe: model"].status == "ok"

    def test_without_the_hub_looks_only_into_the_cache(self, monkeypatch, tmp_path):
        asked = []

        def from_pretrained(name, local_files_only=False, **kwargs):
            asked.append((name, local_files_only))
            raise OSError("not in the cache")

        monkeypatch.setattr("transformers.AutoConfig.from_pretrained", from_pretrained)
        monkeypatch.setattr("datasets.load_dataset_builder", None)
        learned = {"hub_error": "ConnectError: x", "gpus": [GPU]}
        findings = self.findings(tmp_path, 1, learned, model_name_or_path="a/b", dataset_name="c/d", use_cpu=False)
        assert asked and set(asked) == {("a/b", True)}
        assert "not in the cache" in findings["Recipe: model"].found
        dataset = findings["Recipe: data set"]
        assert dataset.status == "warning" and "c/d: not looked up" in dataset.found and dataset.cure

    @pytest.mark.parametrize(("name", "asks"), [("tiny", 0), ("owner/none", 1), ("./no/model", 0)])
    def test_asks_the_hub_only_where_the_recipe_needs_it(self, monkeypatch, tmp_path, name, asks):
        monkeypatch.setattr(probe, "probe", lambda names: {"gpus": [], "cuda": None})
        asked = []
        monkeypatch.setattr(machine, "hub_error", lambda: asked.append(1) or "ConnectError: x")
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**DEMO, "output_dir": str(tmp_path), "model_name_or_path": name}))
        findings = {finding.name: finding for finding in doctor.examine(path)}
        assert len(asked) == asks and ("ConnectError: x" in findings["Hub"].found) == bool(asks)

    def test_packages_that_a_run_needs(self):
        values = {"use_peft": True, "load_in_4bit": True, "use_vllm": True, "report_to": ["wandb", "mlflow"]}
        assert recipe.needed_packages(values, {}) == ["peft", "bitsandbytes", "vllm", "wandb"]
        assert recipe.needed_packages({"report_to": "trackio"}, {}) == ["trackio"]
        for name in ("zero3", "zero3_offload"):
            config = machine.read_launch_config(ROOT / "recipes" / "accelerate" / f"{name}.yaml")
            assert recipe.needed_packages({}, config) == ["deepspeed"]

    @pytest.mark.parametrize(
        "path", [path for path in RECIPES if path.parent.name == "recipes"], ids=lambda path: path.stem
    )
    def test_finds_the_server_of_every_recipe(self, path):
        values = read_recipe(path)
        stated = values.get("vllm_server_base_url", "http://0.0.0.0:8000")
        url = stated if values.get("vllm_mode") == "server" else None
        assert recipe_server_url({**DEFAULTS, **values}) == url


class TestDefaults:
    def test_are_those_of_trl(self):
        trl = {field.name: field.default for config in (ResTGRPOConfig, ModelConfig) for field in fields(config)}
        assert {name: trl[name] for name in DEFAULTS} == DEFAULTS

    def test_give_way_to_the_recipe(self):
        (run,) = recipe.runs_of(ROOT / "recipes" / "demo.yaml", {"dtype": "bfloat16"})
        assert run == {**DEFAULTS, "dtype": "bfloat16"}


class TestMemory:
    RECIPE = ROOT / "recipes" / "qwen3_4b_2507_lora_24gb.yaml"

    def finding(self, tmp_path, gpus=(), launch_config=None, path=RECIPE, is_rl=True, **changes):
        """
        What is found of a recipe whose model is a configuration of the size of Qwen3-4B, saved in bfloat16. Changes to
        "absent" take an argument out of the recipe.
        """
        model = tmp_path / "model"
        Qwen3Config(
            num_hidden_layers=36, hidden_size=2560, intermediate_size=9728, num_attention_heads=32, head_dim=128,
            num_key_value_heads=8, tie_word_embeddings=True, dtype="bfloat16",
        ).save_pretrained(model)  # fmt: skip
        values = yaml.safe_load(path.read_text()) | {"model_name_or_path": str(model)} | changes
        values = {name: value for name, value in values.items() if value != "absent"}
        learned = {"gpus": [{"memory": size * 2**30} for size in gpus], "launch_config": launch_config or {}}
        return [*memory.memory_findings(path, {**DEFAULTS, **values}, is_rl, learned), None][0]

    def test_a_recipe_is_held_against_the_card_that_it_is_meant_for(self, tmp_path):
        finding = self.finding(tmp_path)
        assert finding.status == "ok"
        assert finding.found == (
            "at least 19.7 GiB, and such a card offers 22.5 (weights 7.5, adapters with gradients and moments 1.0, "
            "vLLM 11.2); the activations of an update, of up to 6,144 tokens, or 4,096 with each prompt computed "
            "once, come on top"
        )

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"share_prompts": False}, "of up to 6,144 tokens come"),
            ({"per_device_train_batch_size": 1}, "of up to 3,072 tokens come"),
            ({"per_device_train_batch_size": 8}, "of up to 24,576 tokens, or 12,288 with"),
            ({"per_device_train_batch_size": 6}, "of up to 18,432 tokens, or 10,240 with"),
            ({"max_prompt_length": "absent"}, "the activations of an update come"),
        ],
    )
    def test_tells_the_tokens_of_a_micro_batch(self, tmp_path, changes, told):
        assert told in self.finding(tmp_path, **changes).found

    def test_a_gpu_counts_before_the_card_that_is_meant_and_the_smallest_of_several(self, tmp_path):
        finding = self.finding(tmp_path, gpus=(79.0, 15.5))
        assert finding.status == "problem" and "the card has 15.5" in finding.found
        assert "lower vllm_gpu_memory_utilization" in finding.cure
        assert self.finding(tmp_path, gpus=(79.0,)).status == "ok"

    def test_a_share_that_does_not_hold_the_weights_is_a_problem(self, tmp_path):
        finding = self.finding(tmp_path, vllm_gpu_memory_utilization=0.3)
        assert finding.status == "problem" and finding.cure.startswith("raise vllm_gpu_memory_utilization")

    def part(self, finding, name):
        """GiB of one part."""
        (size,) = re.findall(rf"{name} (\d+\.\d)", finding.found)
        return float(size)

    @pytest.mark.parametrize(
        ("changes", "width"),
        [
            ({"dtype": "absent"}, 4),
            ({"dtype": "float32"}, 4),
            ({"dtype": "float16"}, 2),
            ({"dtype": "bfloat16"}, 2),
            ({"dtype": "auto"}, 2),
            ({"dtype": None}, 2),
            ({"dtype": "absent", "model_init_kwargs": {"dtype": "bfloat16"}}, 2),
            ({"dtype": "bfloat16", "model_init_kwargs": '{"dtype": "float32"}'}, 4),
        ],
    )
    def test_weights_have_the_type_in_which_trl_loads_them(self, tmp_path, changes, width):
        finding = self.finding(tmp_path, gpus=(79.0,), **changes)
        assert self.part(finding, "weights") == pytest.approx(width * 4.022e9 / 2**30, abs=0.06)

    def test_what_is_not_quantised_has_that_type_too(self, tmp_path):
        half, full = (
            self.part(self.finding(tmp_path, gpus=(79.0,), load_in_4bit=True, dtype=dtype), "weights")
            for dtype in ("bfloat16", "float32")
        )
        assert full - half == pytest.approx(2 * 151936 * 2560 / 2**30, abs=0.11)

    @pytest.mark.parametrize("config", [Qwen3Config, LlamaConfig])
    def test_counts_the_weights_of_the_model_and_of_its_adapters(self, config):
        peft = pytest.importorskip("peft")
        config = config(num_hidden_layers=3, hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
        weights, linear, adapters = memory.count(config, 32)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
            assert weights == model.num_parameters()
            sizes = {n: p.numel() for n, p in model.named_parameters() if p.dim() == 2}
            assert linear == sum(size for name, size in sizes.items() if "proj" in name)
            lora = peft.LoraConfig(r=32, target_modules="all-linear", task_type="CAUSAL_LM")
            assert adapters == peft.get_peft_model(model, lora).get_nb_trainable_parameters()[0]

    def test_weights_in_8_bits_are_not_counted(self, tmp_path):
        assert self.finding(tmp_path, load_in_8bit=True).found.startswith("not counted")

    def test_needs_no_trl(self, monkeypatch, tmp_path):
        expected = self.finding(tmp_path, gpus=(79.0,))
        monkeypatch.setitem(sys.modules, "rest_trl.config", None)
        assert self.finding(tmp_path, gpus=(79.0,)) == expected

    def test_finds_models_where_training_does(self, monkeypatch, tmp_path):
        changes = {"gpus": (79.0,), "vllm_gpu_memory_utilization": 0.5}
        monkeypatch.setenv("HOME", str(tmp_path))
        expected = self.finding(tmp_path, **changes)
        assert self.finding(tmp_path, **changes, model_name_or_path="~/model") == expected
        assert "(weights 0.0" in self.finding(tmp_path, **changes, model_name_or_path="tiny").found

    def test_sft_is_not_counted(self, tmp_path):
        assert self.finding(tmp_path, gpus=(79.0,), is_rl=False).found.startswith("not counted")

    def test_says_which_runs_it_counts(self, tmp_path):
        assert self.finding(tmp_path, use_peft=False).found.startswith("not counted: counted are LoRA and QLoRA")

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

    @pytest.mark.parametrize("end", ["/v1", "/"])
    def test_an_address_that_ends_with_a_path(self, serve, end):
        url = serve()
        values = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": url + end}
        findings = list(server_findings(url + end, {**DEFAULTS, **values}))
        (finding,) = (finding for finding in findings if finding.name == "Server: address")
        assert (finding.status, finding.cure) == ("problem", f"vllm_server_base_url: {url}")
        assert "Server: address" not in statuses(server_findings(url, {**DEFAULTS, **values}))

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
