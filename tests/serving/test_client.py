import socket
import threading
import time

import pytest
import requests
from engines.fake_vllm import CONFIG, MODELS, FakeVLLM

from rest_trl.serving.client import ServerClient, server_url


@pytest.fixture
def closed():
    """Address of a port at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


class TestServerUrl:
    def test_the_base_url_wins(self):
        assert server_url("http://node:1", "host", 2) == "http://node:1"
        assert server_url(None, "host", 2) == "http://host:2"


class TestServerClient:
    @pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
    def test_takes_the_address_with_and_without_v1(self, end):
        with FakeVLLM() as server:
            assert ServerClient(server.url + end).models() == MODELS["data"]

    def test_reads_what_the_server_says(self):
        with FakeVLLM() as server:
            client = ServerClient(server.url)
            assert client.config() == CONFIG
            assert client.weight_version() == "default"
            client.mark_weights("run-1")
            assert client.weight_version() == "run-1"

    def test_endpoints_that_are_not_there_are_none(self):
        with FakeVLLM({"/server_info": None, "/weight_info": None}) as server:
            client = ServerClient(server.url)
            assert client.config() is None and client.weight_version() is None

    @pytest.mark.parametrize("answer", [b"<html>", [b"[]"], {"data": [{}]}, {"data": "text"}, {}, 404, 500])
    def test_other_services_are_an_error(self, answer):
        with FakeVLLM({"/v1/models": answer}) as server, pytest.raises(requests.RequestException):
            ServerClient(server.url).models()

    @pytest.mark.parametrize("url", ["localhost:8000", "http://", "nonsense"])
    def test_addresses_that_are_none_are_an_error(self, url):
        with pytest.raises(requests.RequestException):
            ServerClient(url).models()

    def test_asks_a_busy_server_again(self):
        with FakeVLLM({"/v1/models": [503, MODELS]}) as server:
            assert ServerClient(server.url).models() == MODELS["data"]
            assert server.paths("GET") == ["/v1/models"] * 2

    def test_sends_once(self):
        with FakeVLLM({"/v1/completions": 503}) as server:
            assert ServerClient(server.url).post("/v1/completions", {"prompt": [1]}).status_code == 503
            assert server.requests == [("POST", "/v1/completions", {"prompt": [1]})]

    def test_a_mark_that_is_refused_is_an_error(self):
        with FakeVLLM({"/update_weight_version": 500}) as server, pytest.raises(requests.HTTPError):
            ServerClient(server.url).mark_weights("run-1")


class TestWaitUntilHealthy:
    def test_waits_for_a_server_that_starts(self, monkeypatch):
        monkeypatch.setattr("rest_trl.serving.client._POLL", 0.01)
        with FakeVLLM({"/health": [503, 503, b""]}) as server:
            ServerClient(server.url).wait_until_healthy(10)
            assert server.paths("GET").count("/health") == 3

    def test_says_at_once_what_it_waits_for(self, closed, caplog):
        with pytest.raises(ConnectionError):
            ServerClient(closed).wait_until_healthy(0.1)
        (record,) = caplog.records
        assert record.getMessage() == f"waiting for a vLLM server at {closed} for at most 0 s (ConnectionError)"

    @pytest.mark.parametrize(
        ("answers", "cause"),
        [
            ({"/health": 404}, "GET /health gives 404"),
            ({"/health": 401}, "GET /health gives 401"),
            ({"/v1/models": 404}, "404"),
            ({"/v1/models": b"<html>"}, "Expecting value"),
            ({"/v1/models": {"models": []}}, "says nothing of data"),
        ],
    )
    def test_does_not_wait_for_another_service(self, answers, cause):
        begin = time.monotonic()
        with FakeVLLM(answers) as server, pytest.raises(ConnectionError, match="is not a vLLM server .*" + cause):
            ServerClient(server.url).wait_until_healthy(60)
        assert time.monotonic() - begin < 30

    def test_does_not_wait_for_what_speaks_another_protocol(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def answer():
                for _ in range(8):
                    connection, _ = listener.accept()
                    connection.recv(1024)
                    connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")
                    connection.close()

            threading.Thread(target=answer, daemon=True).start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with pytest.raises(ConnectionError, match=f"what answers at {url} does not speak HTTP"):
                ServerClient(url).wait_until_healthy(60)

    def test_gives_up(self, closed):
        begin = time.monotonic()
        with pytest.raises(ConnectionError, match=f"no vLLM server answers at {closed} for 0 s"):
            ServerClient(closed).wait_until_healthy(0)
        assert time.monotonic() - begin < 10
