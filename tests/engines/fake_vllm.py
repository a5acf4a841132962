"""An HTTP server on loopback that answers like a vLLM server, for tests of what talks to one."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


MODELS = {"data": [{"id": "served", "root": "served", "max_model_len": 256}]}
CONFIG = {
    "model_config": {
        "model": "served",
        "logprobs_mode": "processed_logprobs",
        "max_model_len": 256,
        "dtype": "torch.float32",
    },
    "cache_config": {"enable_prefix_caching": True},
    "weight_transfer_config": {"backend": "nccl"},
}


class FakeVLLM:
    """
    The server, as a context manager.

    Args:
        answers (`dict`, *optional*):
            By path what takes the place of a good server's answer: bytes, an object to send as JSON, a status, a
            function of the request that returns one of these, or `None` for 404. A list is taken one by one; its last
            element stays.

    Attributes:
        requests (`list[tuple[str, str, object]]`):
            Method, path and content of all requests.
        version (`str`):
            Mark of the weights; `"default"` at first, as after a restart.
    """

    def __init__(self, answers=None):
        self.requests, self.version = [], "default"
        self.answers = {
            "/health": b"",
            "/v1/models": MODELS,
            "/server_info": {"vllm_config": CONFIG},
            "/weight_info": lambda _: {"weight_version": self.version},
            "/update_weight_version": self._mark,
            **(answers or {}),
        }
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()

    def _mark(self, content):
        self.version = content["new_version"]
        return b"{}"

    def paths(self, method):
        return [path for kind, path, _ in self.requests if kind == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeVLLM

    def answer(self):
        path = self.path.split("?")[0]
        length = int(self.headers.get("Content-Length", 0))
        content = json.loads(self.rfile.read(length)) if length else None
        self.fake.requests.append((self.command, path, content))
        answer = self.fake.answers.get(path)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer(content)
        status = 404 if answer is None else answer if isinstance(answer, int) else 200
        data = b"" if status != 200 else answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer

    def log_message(self, *arguments):
        pass
