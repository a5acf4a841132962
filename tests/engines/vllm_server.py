"""A real vLLM server on loopback, for tests."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path


TESTS_DIR = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class VLLMServer:
    """
    A vLLM server process, started on entry and killed with all its children on exit.

    `start`, `stop` and `kill` may also be called one by one: a server that was killed starts again on the same port.

    Args:
        model (`str` or `Path`):
            Checkpoint to serve.
        log_path (`Path`):
            File that its output is appended to.
        max_model_len (`int`, *optional*, defaults to `512`):
            Longest prompt plus completion, in tokens.
        dev_mode (`bool`, *optional*, defaults to `True`):
            Whether the endpoints that TRL synchronises weights with are there.
        weight_transfer (`bool`, *optional*, defaults to `True`):
            Whether the server can receive weights, see `cpu_weight_transfer`.
        options (`tuple[str, ...]`, *optional*):
            More of the command line, such as `("--enable-auto-tool-choice", "--tool-call-parser", "hermes")`.
        port (`int`, *optional*):
            By default a free one.
    """

    def __init__(
        self, model, log_path, *, max_model_len=512, dev_mode=True, weight_transfer=True, options=(), port=None
    ):
        self.log_path = Path(log_path)
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None
        self.start_seconds = 0.0
        self.command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        self.command += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32", "--enforce-eager"]
        self.command += ["--max-model-len", str(max_model_len), "--max-logprobs", "-1"]
        self.command += ["--logprobs-mode", "processed_logprobs"]
        if weight_transfer:
            self.command += ["--worker-extension-cls", "engines.cpu_weight_transfer.WorkerExtension"]
            self.command += ["--weight-transfer-config", json.dumps({"backend": "cpu"})]
        self.command += options
        self.environment = os.environ | {
            "VLLM_SERVER_DEV_MODE": "1" if dev_mode else "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_NO_USAGE_STATS": "1",
            "TORCH_COMPILE_DISABLE": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([str(TESTS_DIR), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }

    def __enter__(self) -> "VLLMServer":
        return self.start()

    def __exit__(self, *exception) -> None:
        self.stop()

    def start(self, timeout: float = 240.0) -> "VLLMServer":
        """Start and wait until the server is healthy, for at most `timeout` seconds."""
        assert not self.running, "the server already runs"
        begin = time.monotonic()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        while not self.healthy():
            if not self.running or time.monotonic() - begin > timeout:
                cause = "did not become healthy" if self.running else f"exited with {self.process.returncode}"
                self.kill()
                raise RuntimeError(f"the vLLM server {cause}; the end of its log:\n{self.log_tail()}")
            time.sleep(0.2)
        self.start_seconds = time.monotonic() - begin
        return self

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, timeout: float = 20.0) -> None:
        """End the server in order, then kill what is left of it."""
        if self.running:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):  # killed below
                self.process.wait(timeout)
        self.kill()

    def pause(self) -> None:
        """Stop the server and its children where they are. What is sent to it then waits, and gets no answer."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def wait_for_request(self, timeout: float) -> bool:
        """Wait until a request lies unread at the server, which is paused; whether one came in time. Linux alone."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
                _, local, _, state, queues, *_ = line.split()
                if local.endswith(f":{self.port:04X}") and state == "01" and int(queues.partition(":")[2], 16):
                    return True
            time.sleep(0.02)
        return False

    def kill(self) -> None:
        """Kill the server and its children at once."""
        if self.process is not None:
            with suppress(ProcessLookupError):  # nothing is left of the group
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
