import json
import signal
import subprocess
import sys

import pytest


pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")

import torch
from accelerate import PartialState
from engines.vllm_server import VLLMServer
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rest_trl.lab.evaluation.evaluate import main
from rest_trl.lab.evaluation.generation import GenerationSettings
from rest_trl.lab.evaluation.gold_calls_benchmark import tiny_samples
from rest_trl.lab.evaluation.local_backends import TransformersGenerator, VLLMGenerator
from rest_trl.lab.evaluation.server_backend import ServerGenerator
from rest_trl.lab.tiny import TINY_MODEL_DIR


MODEL = str(TINY_MODEL_DIR)
SETTINGS = GenerationSettings(max_new_tokens=96)


@pytest.fixture(scope="module", autouse=True)
def state():
    """The loggers raise without it."""
    PartialState()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter of the tiny model that changes what it writes; its rank is above vLLM's default bound."""
    path = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    config = LoraConfig(r=24, lora_alpha=24, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), config).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def server(tmp_path_factory, adapter):
    options = ("--enable-lora", "--max-lora-rank", "32", "--lora-modules", f"tuned={adapter}")
    log = tmp_path_factory.mktemp("server") / "log"
    with VLLMServer(TINY_MODEL_DIR, log, max_model_len=512, weight_transfer=False, options=options) as server:
        yield server


@pytest.fixture(scope="module")
def tiny_tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def prompts(tiny_tokenizer):
    return {sample.id: sample.prompt for sample in tiny_samples(tiny_tokenizer, size=64)}


def generated(generator, prompts):
    return {completion.id: completion for completion in generator.generate(prompts)}


class TestBackends:
    """Ties of two likeliest tokens may fall either way: one completion of 64 may differ."""

    @pytest.mark.parametrize("tuned", [False, True], ids=["model", "adapter"])
    def test_server_writes_what_transformers_writes(self, server, adapter, tiny_tokenizer, prompts, tuned):
        path = adapter if tuned else None
        ours = generated(ServerGenerator(server.url, MODEL, tiny_tokenizer, SETTINGS, path), prompts)
        theirs = generated(TransformersGenerator(MODEL, tiny_tokenizer, SETTINGS, path, dtype=torch.float32), prompts)
        same = sum(ours[id] == theirs[id] for id in prompts)
        print(f"server as transformers: {same} of {len(prompts)}")
        assert ours.keys() == theirs.keys() == prompts.keys() and same >= 63
        if tuned:
            base = generated(ServerGenerator(server.url, MODEL, tiny_tokenizer, SETTINGS), prompts)
            assert sum(ours[id] == base[id] for id in prompts) <= 48

    @pytest.mark.parametrize("tuned", [False, True], ids=["model", "adapter"])
    def test_offline_engine_writes_what_the_server_writes(
        self, server, adapter, tiny_tokenizer, prompts, monkeypatch, tuned
    ):
        for name, value in {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        path = adapter if tuned else None
        ours = generated(ServerGenerator(server.url, MODEL, tiny_tokenizer, SETTINGS, path), prompts)
        engine = VLLMGenerator(
            MODEL, tiny_tokenizer, SETTINGS, path, dtype="float32", max_model_len=512, enforce_eager=True
        )
        theirs = generated(engine, prompts)
        same = sum(ours[id] == theirs[id] for id in prompts)
        print(f"offline as server: {same} of {len(prompts)}")
        assert ours.keys() == theirs.keys() and same >= 63


class TestAdapters:
    @pytest.mark.parametrize(
        ("config", "cause"),
        [
            (
                LoraConfig(r=8, rank_pattern={"q_proj": 600}, target_modules=["q_proj"]),
                "up to rank 512, .* has rank 600",
            ),
            (IA3Config(target_modules=["q_proj"], feedforward_modules=[]), "vLLM runs no .*IA3 adapters"),
        ],
        ids=["rank", "kind"],
    )
    def test_that_the_offline_engine_cannot_run_are_refused(self, tiny_tokenizer, tmp_path, config, cause):
        config.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=cause):
            VLLMGenerator(MODEL, tiny_tokenizer, SETTINGS, str(tmp_path))


# `rest-trl evaluate`, which kills a process or group of processes, itself by default, once it has so many completions.
KILLING = """\
import os, signal, sys
from rest_trl.lab.evaluation import evaluate, generation

count, group, *arguments = sys.argv[1:]
add = generation.CompletionStore.add

def add_and_kill(self, *completion):
    add(self, *completion)
    if len(self) == int(count):
        os.killpg(int(group), signal.SIGKILL) if int(group) else os.kill(os.getpid(), signal.SIGKILL)

generation.CompletionStore.add = add_and_kill
evaluate.main(arguments)
"""


class TestServer:
    def command(self, server, path, *program):
        program = [sys.executable, *(program or ("-m", "rest_trl.lab.evaluation.evaluate")), "--benchmark", "tiny"]
        options = ["--backend", "server", "--server_url", server.url, "--concurrency", "4", "--max_new_tokens", "96"]
        return [*program, "--model_name_or_path", "tiny", *options, "--limit", "200", "--output_dir", str(path)]

    def test_a_killed_run_goes_on_where_it_was(self, server, tmp_path):
        path = tmp_path / "killed" / "completions.jsonl"
        killed = subprocess.run(self.command(server, path.parent, "-c", KILLING, "100", "0"), capture_output=True)
        assert killed.returncode == -signal.SIGKILL
        kept = path.read_bytes().splitlines(keepends=True)
        assert len(kept) == 100
        subprocess.run(self.command(server, path.parent), check=True, capture_output=True)
        lines = path.read_bytes().splitlines(keepends=True)
        assert lines[: len(kept)] == kept
        assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 200
        subprocess.run(self.command(server, tmp_path / "whole"), check=True, capture_output=True)
        summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("killed", "whole")]
        assert (summaries[0]["reused"], summaries[0]["generated"]) == (len(kept), 200 - len(kept))
        assert summaries[0]["overall"] == summaries[1]["overall"]

    def test_must_have_the_model_that_is_asked_for(self, server, tiny_tokenizer, adapter):
        with pytest.raises(ValueError, match=r"does not have model other; its models: .*checkpoint"):
            ServerGenerator(server.url, MODEL, tiny_tokenizer, SETTINGS, served_model="other")
        with pytest.raises(ValueError, match="does not have adapter other; its adapters: tuned"):
            ServerGenerator(server.url, MODEL, tiny_tokenizer, SETTINGS, adapter, served_model="other")
        with pytest.raises(ValueError, match="does not have model tuned"):
            ServerGenerator(server.url, MODEL, tiny_tokenizer, SETTINGS, served_model="tuned")

    def test_leaves_out_prompts_that_it_has_no_room_for(self, server, tiny_tokenizer):
        prompts = {"long": "word " * 600, "short": "<|im_start|>user\n"}
        generator = ServerGenerator(server.url, MODEL, tiny_tokenizer, GenerationSettings(4096))
        assert list(generated(generator, prompts)) == ["short"]

    def test_that_dies_is_named_and_nothing_is_lost(self, server, tmp_path, capsys):
        path = tmp_path / "run"
        command = self.command(server, path, "-c", KILLING, "50", str(server.process.pid))
        process = subprocess.run(command, capture_output=True, text=True, timeout=360)
        server.kill()  # waits for what is left of it
        errors = process.stderr
        last = errors.strip().splitlines()[-1]
        assert process.returncode == 1 and "Traceback" not in errors
        assert last.startswith(f"rest-trl evaluate: error: the server at {server.url} has failed 5 times")
        assert errors.count("trying again") == 1
        kept = (path / "completions.jsonl").read_bytes()
        server.start()
        summary = main([*self.command(server, path)[3:]])
        assert (path / "completions.jsonl").read_bytes().startswith(kept)
        assert summary["reused"] == kept.count(b"\n") and summary["generated"] == 200 - summary["reused"]
