import socket
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
        with FakeVLLM({"/health": [404, 404, b""]}) as server:
            ServerClient(server.url).wait_until_healthy(10)
            assert len(server.requests) == 3

    def test_says_what_answers_instead(self):
        with FakeVLLM({"/health": 404}) as server, pytest.raises(ConnectionError, match="GET /health gives 404"):
            ServerClient(server.url).wait_until_healthy(0)

    def test_gives_up(self, closed):
        begin = time.monotonic()
        with pytest.raises(ConnectionError, match=f"no vLLM server answers at {closed} for 0 s"):
            ServerClient(closed).wait_until_healthy(0)
        assert time.monotonic() - begin < 10
