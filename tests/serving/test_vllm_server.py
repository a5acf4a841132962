"""Faults, death and restart of a real vLLM server process."""

import json
import logging
import re
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest


pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")

from engines.cpu_client import use_cpu_weight_transfer
from engines.vllm_server import VLLMServer, free_port
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainerCallback

from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.train import main, make_parser, make_trainer


START = 600  # seconds that a server may take to start, on a busy machine


@pytest.fixture(scope="module")
def cpu_transfer():
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_cpu_weight_transfer(monkeypatch)
        yield


def arguments(url, output_dir, **changes):
    settings = {
        "config": "recipes/demo.yaml",
        "output_dir": output_dir,
        "use_vllm": True,
        "vllm_mode": "server",
        "vllm_server_base_url": url,
        "vllm_server_timeout": 5,
        "vllm_group_port": free_port(),
        "use_peft": True,
        "lora_r": 8,
        "lora_dropout": 0.0,  # it would set the trainer's log-probabilities apart from the server's
        "lora_target_modules": "all-linear",
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 64,
        "learning_rate": 1e-2,  # so large that the weights of another step would be seen
        "save_strategy": "steps",
        "save_steps": 1,
        "disable_tqdm": True,
    } | changes
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


def error_line(url, output_dir, **changes):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments(url, output_dir, **changes))
    line = str(exit_info.value)
    assert line.startswith("rest_trl.train: error: ") and "\n" not in line
    return line


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    """A model that the tiny one's weights do not fit."""
    path = tmp_path_factory.mktemp("other")
    config = Qwen3Config.from_pretrained(TINY_MODEL_DIR).to_dict() | {"num_hidden_layers": 1, "layer_types": None}
    Qwen3ForCausalLM(Qwen3Config(**config)).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((TINY_MODEL_DIR / name).read_bytes())
    return path


@pytest.fixture(scope="module")
def servers(tmp_path_factory, other_model):
    """Servers with a fault each, started side by side."""
    logs = tmp_path_factory.mktemp("logs")
    servers = {
        "no dev mode": VLLMServer(TINY_MODEL_DIR, logs / "1", dev_mode=False),
        "no weight transfer": VLLMServer(TINY_MODEL_DIR, logs / "2", weight_transfer=False),
        "short context and other model": VLLMServer(other_model, logs / "3", max_model_len=64),
    }
    starts = [threading.Thread(target=server.start, args=(START,)) for server in servers.values()]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    yield servers
    for server in servers.values():
        server.kill()


class TestChecksAtStart:
    def test_no_server(self, tmp_path):
        url = f"http://127.0.0.1:{free_port()}"
        begin = time.monotonic()
        line = error_line(url, tmp_path, vllm_server_timeout=1)
        assert time.monotonic() - begin < 30
        assert f"no vLLM server answers at {url} for 1 s" in line
        assert f"VLLM_SERVER_DEV_MODE=1 vllm serve {TINY_MODEL_DIR} --weight-transfer-config" in line

    def test_other_service(self, tmp_path):
        with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as service:
            threading.Thread(target=service.serve_forever, daemon=True).start()
            line = error_line(f"http://127.0.0.1:{service.server_port}", tmp_path, vllm_server_timeout=1)
            service.shutdown()
        assert "GET /health gives 404" in line

    def test_no_dev_mode(self, servers, tmp_path):
        line = error_line(servers["no dev mode"].url, tmp_path)
        assert "no development endpoints" in line and "restart it with VLLM_SERVER_DEV_MODE=1" in line

    def test_no_weight_transfer(self, servers, tmp_path):
        line = error_line(servers["no weight transfer"].url, tmp_path)
        assert "cannot take weights" in line and "restart it with --weight-transfer-config" in line

    def test_short_context(self, servers, tmp_path):
        line = error_line(servers["short context and other model"].url, tmp_path, max_completion_length=64)
        assert "--max-model-len 64" in line and "max_completion_length=64" in line

    def test_other_model(self, servers, tmp_path, other_model):
        line = error_line(servers["short context and other model"].url, tmp_path, max_completion_length=16)
        assert f"serves another model, '{other_model}', than the policy '{TINY_MODEL_DIR}'" in line
        assert re.search(r"\(num_hidden_layers 1, not \d+\)", line)


class _Killer(TrainerCallback):
    """Kills the server in the middle of the generation of step 3 and after step 4, and starts it again."""

    def __init__(self, server):
        self.server, self.has_waited = server, False
        self.thread = threading.Thread(target=self.kill_while_generating)

    def kill_while_generating(self):
        self.has_waited = self.server.wait_for_request(START)
        self.server.kill()
        self.server.start(START)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            client = self.trainer.vllm_generation.vllm_client.client

            def generate(*args, **kwargs):
                del client.generate  # only this once
                self.server.pause()  # so that the generation cannot end before the server does
                self.thread.start()
                return client.generate(*args, **kwargs)

            client.generate = generate

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            self.server.kill()
            self.server.start(START)
            # Nothing has failed, and the server has the weights of step 0; as in an evaluation, none are sent before.
            _, self.completion_ids, *_ = self.trainer.vllm_generation.generate([[1, 2, 3]] * 4, None, 4)


def differences(log_history):
    key = "sampling/sampling_logp_difference/mean"
    return {log["step"]: log[key] for log in log_history if key in log}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with VLLMServer(TINY_MODEL_DIR, tmp_path_factory.mktemp("logs") / "server.log") as server:
        yield server


@pytest.fixture(scope="module")
def restarted(server, cpu_transfer, tmp_path_factory):
    """Six steps, with the server killed and restarted twice."""
    output_dir = tmp_path_factory.mktemp("run")
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("rest_trl.serving.recovery")
    logger.addHandler(handler)
    killer = _Killer(server)
    parsed = make_parser().parse_args_and_config(
        arguments(server.url, output_dir, max_steps=6, vllm_server_timeout=START)
    )
    trainer = make_trainer(*parsed, callbacks=[killer])
    killer.trainer = trainer
    trainer.train()
    killer.thread.join()
    logger.removeHandler(handler)
    return SimpleNamespace(trainer=trainer, output_dir=output_dir, log="\n".join(records), killer=killer)


@pytest.mark.usefixtures("cpu_transfer")
class TestDeathAndRestart:
    def test_killed_while_generating_goes_on(self, restarted):
        assert restarted.killer.has_waited
        assert re.search(r"step 3: the vLLM server at \S+ failed \(\w*Conn", restarted.log)

    def test_restart_between_requests_is_noticed(self, restarted):
        assert re.search(r"step 5: the vLLM server at \S+ failed \(StaleWeightsError: restarted\)", restarted.log)
        assert restarted.log.count("again: all weights are sent again") == 2
        assert len(restarted.killer.completion_ids) == 4

    def test_restarted_server_samples_from_the_policy(self, restarted):
        by_step = differences(restarted.trainer.state.log_history)
        assert list(by_step) == [1, 2, 3, 4, 5, 6]
        assert max(by_step.values()) < 1e-5

    def test_dead_server_ends_with_one_line_and_resumes(self, restarted, server):
        output_dir = restarted.output_dir

        def kill_later():
            deadline = time.monotonic() + START
            while not (output_dir / "checkpoint-8").is_dir() and time.monotonic() < deadline:
                time.sleep(0.02)
            server.kill()

        thread = threading.Thread(target=kill_later)
        thread.start()
        line = error_line(server.url, output_dir, max_steps=1000, resume_from_checkpoint=True)
        thread.join()
        found = re.search(
            r"training stopped after step (\d+): no vLLM server answers at (\S+) for 5 s .* Then: (\S+) is whole: "
            r"run the same command with --resume_from_checkpoint true to go on from it$",
            line,
        )
        step = int(found[1])
        assert step >= 7 and found[2] == server.url
        assert found[3] == str(output_dir / f"checkpoint-{step}")

        server.start(START)
        main(arguments(server.url, output_dir, max_steps=step + 2, resume_from_checkpoint=True))
        state = json.loads((output_dir / "trainer_state.json").read_text())
        assert state["global_step"] == step + 2
        by_step = differences(state["log_history"])
        assert list(by_step) == list(range(1, step + 3))
        assert max(by_step.values()) < 1e-5
