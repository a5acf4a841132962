"""What the server backend makes of a server's answers, with a fake one."""

import threading
import time

import pytest
from engines.fake_vllm import MODELS, FakeVLLM

from rest_trl.lab.evaluation import server_backend
from rest_trl.lab.evaluation.generation import GenerationSettings
from rest_trl.lab.evaluation.server_backend import ServerGenerator


SETTINGS = GenerationSettings(2)


def answer(content):
    """Two tokens that the prompt determines."""
    ids = [content["prompt"][0], 5]
    return {"choices": [{"token_ids": ids, "finish_reason": "length", "stop_reason": None}]}


@pytest.fixture
def server():
    with FakeVLLM({"/v1/completions": answer}) as server:
        yield server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(server_backend, "_PAUSES", (0.0, 0.0, 0.0, 0.0))


@pytest.fixture
def make(server, tokenizer):
    def make(settings=SETTINGS, **arguments):
        return ServerGenerator(server.url, "served", tokenizer, settings, **arguments)

    return make


PROMPTS = {f"{index}": f"prompt number {index}" for index in range(40)}


class TestGenerate:
    def test_completes_every_prompt_once(self, server, make, tokenizer):
        completions = {completion.id: completion for completion in make(concurrency=8).generate(PROMPTS)}
        assert completions.keys() == PROMPTS.keys()
        assert len(server.paths("POST")) == len(PROMPTS)
        for id, completion in completions.items():
            assert completion.completion_ids == [tokenizer(PROMPTS[id])["input_ids"][0], 5] and completion.truncated

    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_has_as_many_prompts_under_way_as_it_may(self, server, make, concurrency):
        under_way, most, lock = 0, 0, threading.Lock()

        def count(content):
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            time.sleep(0.05)
            with lock:
                under_way -= 1
            return answer(content)

        server.answers["/v1/completions"] = count
        assert len(list(make(concurrency=concurrency).generate(PROMPTS))) == len(PROMPTS)
        assert most == concurrency

    def test_equal_prompts_have_seeds_of_their_own_which_stay_when_a_run_goes_on(self, server, make):
        trials = {f"task/{trial}.0": "prompt" for trial in range(4)}

        def seeds(prompts, seed=0):
            server.requests.clear()
            list(make(GenerationSettings(2, temperature=1.0, seed=seed), concurrency=1).generate(prompts))
            return [content["seed"] for method, _, content in server.requests if method == "POST"]

        first = seeds(trials)
        assert len(set(first)) == 4
        assert seeds({"task/2.0": "prompt"}) == first[2:3]
        assert not set(seeds(trials, seed=1)) & set(first)

    def test_an_empty_set_of_prompts_asks_nothing(self, server, make):
        assert list(make().generate({})) == [] and not server.paths("POST")

    def test_goes_on_after_failures(self, server, make):
        broken_off = {"choices": [{"token_ids": [1], "finish_reason": "abort", "stop_reason": None}]}
        server.answers["/v1/completions"] = [503, 429, b"<html>", broken_off, answer]
        assert len(list(make(concurrency=1).generate({"0": "prompt"}))) == 1
        assert len(server.paths("POST")) == 5

    def test_gives_up_with_one_warning(self, server, make, caplog):
        server.answers["/v1/completions"] = 503
        with pytest.raises(ConnectionError, match=r"has failed 5 times \(503 .*what was generated is kept"):
            list(make(concurrency=8).generate(PROMPTS))
        assert caplog.text.count("trying again") == 1

    def test_a_refused_prompt_is_named(self, server, make):
        server.answers["/v1/completions"] = 400
        with pytest.raises(ValueError, match="refuses the prompt 0"):
            list(make().generate({"0": "prompt"}))
        assert len(server.paths("POST")) == 1

    def test_needs_token_ids(self, server, make):
        server.answers["/v1/completions"] = {"choices": [{"finish_reason": "stop", "stop_reason": None}]}
        with pytest.raises(ValueError, match="returns no token ids"):
            list(make().generate({"0": "prompt"}))

    def test_breaking_off_waits_for_no_completion_and_starts_no_other(self, server, make):
        release = threading.Event()

        def all_but_the_first_wait(content):
            if len(server.paths("POST")) > 1:
                release.wait(60)
            return answer(content)

        server.answers["/v1/completions"] = all_but_the_first_wait
        completions = make(concurrency=1).generate(PROMPTS)
        next(completions)
        deadline = time.monotonic() + 60
        while len(server.paths("POST")) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        completions.close()  # would not return while the second completion is waited for
        assert not release.is_set()
        release.set()
        time.sleep(0.5)
        assert len(server.paths("POST")) == 2


class TestServer:
    def test_takes_its_only_model(self, make):
        generator = make()
        assert generator.served_model == "served" and generator.max_model_len == 256

    def test_must_have_the_model(self, make):
        with pytest.raises(ValueError, match="does not have model other; its models: served"):
            make(served_model="other")

    def test_must_be_a_vllm_server(self, server, make):
        server.answers["/v1/models"] = b"<html>"
        with pytest.raises(ConnectionError, match="no vLLM server answers at"):
            make()

    def test_a_model_of_another_path_is_a_warning(self, server, make, caplog):
        server.answers["/v1/models"] = {"data": [{**MODELS["data"][0], "root": "elsewhere"}]}
        make()
        assert "has served from elsewhere, not from served" in caplog.text
