"""
The HTTP client for vLLM servers.

Everything that rest-trl itself asks of a server goes through [`ServerClient`]: the checks before training, the
recovery during it, `rest-trl doctor` and the evaluation. It imports neither TRL nor torch, because the doctor
also runs where these are missing.
"""

import logging
import socket
import time
from collections.abc import Iterator
from http.client import BadStatusLine
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidJSONError
from urllib3.util.retry import Retry


logger = logging.getLogger(__name__)

_CONNECT, _READ = 5.0, 30.0  # seconds for all but completions
_POLL = 2.0  # seconds between two looks at a server that does not answer
# A failed GET is repeated, a POST never. A refused connection is not retried: the caller may wait for the server.
_ASK_AGAIN = Retry(
    total=2, connect=0, read=1, status=1, backoff_factor=0.5, status_forcelist=(502, 503, 504), raise_on_status=False
)


def server_url(base_url: str | None, host: str, port: int) -> str:
    """Address of a run's server."""
    return base_url or f"http://{host}:{port}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it wraps, as requests and urllib3 wrap them: as causes or as arguments."""
    seen: list[BaseException] = [error]
    for found in seen:
        yield found
        wrapped = [found.__cause__, found.__context__, *found.args]
        seen += [other for other in wrapped if isinstance(other, BaseException) and other not in seen]


class KeepAliveAdapter(HTTPAdapter):
    """
    Sends each `POST` once, and stops waiting for a vanished machine when keep-alive has failed for about two minutes.

    The session of TRL's client repeats failed requests by itself, even to a restarted server, which has the weights of
    step 0. With this adapter the caller sees the failure of a `POST`.
    """

    def __init__(self, connections: int = 1) -> None:
        super().__init__(pool_maxsize=connections, max_retries=_ASK_AGAIN)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        if hasattr(socket, "TCP_KEEPIDLE"):  # macOS lacks these and uses its own intervals
            options += [
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
                (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
                (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
            ]
        super().init_poolmanager(*args, socket_options=options, **kwargs)


def mount(session: requests.Session, connections: int = 1) -> None:
    """Let a session use [`KeepAliveAdapter`] for all addresses."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, KeepAliveAdapter(connections))


class ServerClient:
    """
    Client of one vLLM server. Threads may share it.

    Where its docstring says nothing else, a method raises `requests.RequestException` if the server does not answer,
    answers with an error, or says something that no vLLM server says.
    """

    def __init__(self, url: str, connections: int = 1) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._session = requests.Session()
        mount(self._session, connections)

    def _get(self, path: str, *keys: str, missing_ok: bool = False, **params: str) -> Any:
        """What an endpoint's answer has under nested keys; `None` if `missing_ok` and there is no such endpoint."""
        response = self._session.get(f"{self.url}{path}", params=params, timeout=(_CONNECT, _READ))
        if missing_ok and response.status_code == requests.codes.not_found:
            return None
        response.raise_for_status()
        value = response.json()
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise InvalidJSONError(f"{path} says nothing of {key}: {self.url} is not a vLLM server")
            value = value[key]
        return value

    def health(self) -> int:
        """Status of `GET /health`, 200 if the server is ready."""
        return self._session.get(f"{self.url}/health", timeout=_CONNECT).status_code

    def wait_until_healthy(self, timeout: float) -> None:
        """
        Wait for the server, and say so; what answers and is not a vLLM server is not waited for.

        Raises:
            ConnectionError: if it is not healthy within `timeout` seconds, or another service answers.
        """
        deadline = time.monotonic() + timeout
        is_said = False
        while True:
            try:
                status = self.health()
                if status == requests.codes.ok:
                    self.models()
                    return
                answer = f"GET /health gives {status}"
                if status < 500:  # vLLM answers with 200 or 503, a proxy with 502 to 504
                    raise ConnectionError(f"what answers at {self.url} is not a vLLM server ({answer})")
            except (requests.HTTPError, InvalidJSONError) as error:  # of /v1/models
                raise ConnectionError(f"what answers at {self.url} is not a vLLM server ({error})") from None
            except requests.RequestException as error:
                if any(isinstance(cause, BadStatusLine) for cause in _causes(error)):
                    raise ConnectionError(f"what answers at {self.url} does not speak HTTP") from None
                answer = type(error).__name__
            if time.monotonic() >= deadline:
                raise ConnectionError(f"no vLLM server answers at {self.url} for {timeout:.0f} s ({answer})")
            if not is_said:
                logger.warning(f"waiting for a vLLM server at {self.url} for at most {timeout:.0f} s ({answer})")
                is_said = True
            time.sleep(_POLL)

    def models(self) -> list[dict[str, Any]]:
        """Models and adapters that the server has, as `/v1/models` lists them."""
        models: list[dict[str, Any]] = self._get("/v1/models", "data")
        if not isinstance(models, list) or not all(isinstance(model, dict) and "id" in model for model in models):
            raise InvalidJSONError(f"/v1/models lists no models: {self.url} is not a vLLM server")
        return models

    def config(self) -> dict[str, Any] | None:
        """The server's configuration; `None` if it has no development endpoints (`VLLM_SERVER_DEV_MODE=1`)."""
        config: dict[str, Any] | None = self._get("/server_info", "vllm_config", missing_ok=True, config_format="json")
        return config

    def weight_version(self) -> str | None:
        """The mark of the server's weights, `"default"` after its start; `None` if vLLM has no marks (before 0.31)."""
        version: str | None = self._get("/weight_info", "weight_version", missing_ok=True)
        return version

    def mark_weights(self, version: str) -> None:
        """Mark the weights that the server has."""
        self.post("/update_weight_version", {"new_version": version}).raise_for_status()

    def post(self, path: str, content: dict[str, Any], timeout: float = _READ) -> requests.Response:
        """Send a request once."""
        return self._session.post(f"{self.url}{path}", json=content, timeout=(_CONNECT, timeout))
