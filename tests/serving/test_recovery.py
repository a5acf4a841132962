"""What the trainer's generation does when its server fails, with a fake server and a client that sends nothing."""

from types import SimpleNamespace

import pytest
import requests
import torch
from accelerate import Accelerator
from engines.fake_vllm import FakeVLLM
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import GRPOConfig
from trl.generation.vllm_generation import VLLMGeneration

from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.serving import weights
from rest_trl.serving.guarded_client import GuardedClient
from rest_trl.serving.recovery import GuardedGeneration, VLLMServerError, guard


class Client:
    """TRL's client, without a group for weights."""

    def __init__(self, url):
        self.base_url, self.session = url, requests.Session()
        self.joined, self.received, self.resets = 0, [], 0

    def _post(self, path):
        response = self.session.post(f"{self.base_url}{path}", json={})
        if response.status_code != 200:
            raise Exception(f"Request failed: {response.status_code}")
        return response.json()

    def init_communicator(self, device):
        self.joined += 1

    def close_communicator(self):
        self.joined -= 1

    def update_named_params(self, metadata, named_params):
        tensors = list(named_params)
        assert metadata == [(name, str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in tensors]
        self._post("/update_weights")
        self.received.append(dict(tensors))

    def reset_prefix_cache(self):
        self.resets += 1

    def generate(self, prompts, n, **kwargs):
        answer = self._post("/v1/completions")
        return {**answer, "prompt_ids": prompts, "logprobs": None, "logprob_token_ids": None}


class Generation(VLLMGeneration):
    """TRL's, with the client above."""

    def _init_vllm(self):
        self.vllm_client = Client(self.server_base_url)
        self.vllm_client.init_communicator(None)


@pytest.fixture
def server():
    with FakeVLLM({"/update_weights": {}, "/v1/completions": {"completion_ids": [[7], [8]]}}) as server:
        yield server


def make_trainer(url, path, model=None, timeout=0):
    model = model or AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR, dtype=torch.float32)
    args = GRPOConfig(
        str(path),
        use_cpu=True,
        bf16=False,
        vllm_server_base_url=url,
        vllm_server_timeout=timeout,
        max_completion_length=8,
    )
    generation = Generation(model, Accelerator(cpu=True), None, mode="server", server_base_url=url)
    state = SimpleNamespace(global_step=4)
    model.config._name_or_path = "served"
    trainer = SimpleNamespace(
        model=model, args=args, state=state, vllm_generation=generation, way_on=lambda: "go on from checkpoint-4"
    )
    guard(trainer)
    return trainer


def completions(trainer):
    return trainer.vllm_generation.generate([[1], [1]], None, 2)[1]


class TestGuard:
    def test_wraps_what_trl_made(self, server, tmp_path):
        generation = make_trainer(server.url, tmp_path).vllm_generation
        assert type(generation) is GuardedGeneration and type(generation.generation) is Generation
        assert type(generation.vllm_client) is GuardedClient and type(generation.vllm_client.client) is Client
        assert generation.generation.vllm_client is generation.vllm_client

    def test_refuses_a_policy_that_cannot_be_sent(self, server, tmp_path, monkeypatch):
        pytest.importorskip("bitsandbytes")

        def refuse(model, accelerator):
            raise ValueError("use DDP")

        monkeypatch.setattr("rest_trl.serving.recovery.check_sendable", refuse)
        with pytest.raises(ValueError, match="use DDP"):
            make_trainer(server.url, tmp_path, quantized_model())

    def test_a_server_with_weights_of_another_run_is_named(self, server, tmp_path, caplog):
        server.version = "rest-trl-other"
        make_trainer(server.url, tmp_path)
        assert "has weights of another run (rest-trl-other)" in caplog.text


class TestGuardedGeneration:
    def test_marks_the_weights_that_it_sends(self, server, tmp_path):
        trainer = make_trainer(server.url, tmp_path)
        trainer.vllm_generation.sync_weights()
        client = trainer.vllm_generation.vllm_client
        assert server.version == client.mark and client.client.resets == 1
        assert list(client.client.received[0]) == [name for name, _ in trainer.model.named_parameters()]
        assert completions(trainer) == [[7], [8]]

    def test_lets_a_rollout_with_branches_change_the_settings_of_trl(self, server, tmp_path):
        generation = make_trainer(server.url, tmp_path).vllm_generation
        generation.generation_kwargs = {"stop": ["</think>"]}
        assert generation.generation.generation_kwargs == generation.generation_kwargs == {"stop": ["</think>"]}
        assert generation.max_completion_length == generation.generation.max_completion_length

    def test_a_failed_request_is_repeated_once_here_and_not_by_the_session(self, server, tmp_path):
        trainer = make_trainer(server.url, tmp_path)
        trainer.vllm_generation.sync_weights()
        server.answers["/v1/completions"] = [503, {"completion_ids": [[7], [8]]}]
        assert completions(trainer) == [[7], [8]]
        assert server.paths("POST").count("/v1/completions") == 2
        assert len(trainer.vllm_generation.vllm_client.client.received) == 1

    def test_a_restarted_server_is_joined_again_and_gets_all_weights(self, server, tmp_path, caplog):
        trainer = make_trainer(server.url, tmp_path)
        trainer.vllm_generation.sync_weights()
        server.version = "default"
        assert completions(trainer) == [[7], [8]]
        client = trainer.vllm_generation.vllm_client
        assert server.version == client.mark and len(client.client.received) == 2 and client.client.joined == 1
        assert "step 5: the vLLM server" in caplog.text and "all weights are sent again" in caplog.text
        assert server.paths("POST").count("/v1/completions") == 2

    def test_a_server_restarted_without_development_endpoints_ends_the_run_with_the_cure(self, server, tmp_path):
        trainer = make_trainer(server.url, tmp_path)
        trainer.vllm_generation.sync_weights()
        server.answers["/server_info"] = server.answers["/weight_info"] = None
        with pytest.raises(VLLMServerError, match=r"no development endpoints.*VLLM_SERVER_DEV_MODE=1"):
            completions(trainer)
        assert server.paths("POST").count("/v1/completions") == 1

    def test_a_server_that_other_runs_take_ends_the_run(self, server, tmp_path):
        trainer = make_trainer(server.url, tmp_path)
        trainer.vllm_generation.sync_weights()
        server.version = "rest-trl-other"
        with pytest.raises(VLLMServerError, match=r"another run \(rest-trl-other\) has taken the vLLM server"):
            completions(trainer)

    def test_a_refused_request_ends_the_run(self, server, tmp_path):
        trainer = make_trainer(server.url, tmp_path)
        trainer.vllm_generation.sync_weights()
        server.answers["/v1/completions"] = 400
        with pytest.raises(VLLMServerError, match=r"refused a request \(Request failed: 400\)"):
            completions(trainer)

    def test_a_dead_server_ends_the_run_with_the_way_on(self, server, tmp_path):
        trainer = make_trainer(server.url, tmp_path)
        trainer.vllm_generation.sync_weights()
        server.answers["/health"] = server.answers["/v1/completions"] = 503
        with pytest.raises(VLLMServerError, match="training stopped after step 4: no vLLM server answers") as error:
            completions(trainer)
        assert str(error.value).endswith("Then: go on from checkpoint-4")

    def test_images_that_fail_are_repeated_with_the_generation(self, server, tmp_path):
        trainer = make_trainer(server.url, tmp_path)
        trainer.vllm_generation.sync_weights()
        client, seen = trainer.vllm_generation.vllm_client.client, []

        def image_features(images, **kwargs):
            seen.append(images)
            if len(seen) == 1:
                raise requests.ConnectionError("reset")
            return [None] * len(images)

        client.image_features = image_features
        assert trainer.vllm_generation.generate([[1], [1]], [["image"], ["image"]], 2)[1] == [[7], [8]]
        assert len(seen) == 2 and server.paths("POST").count("/v1/completions") == 1


def quantized_model():
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    return AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR, dtype=torch.float32, quantization_config=settings)


class TestQuantizedPolicies:
    @pytest.fixture(autouse=True)
    def checks(self, monkeypatch):
        """How often the dequantisation has been checked."""
        pytest.importorskip("bitsandbytes")
        checks, check = [], weights.check_dequantization
        monkeypatch.setattr(
            "rest_trl.serving.recovery.check_dequantization", lambda model: (checks.append(model), check(model))
        )
        return checks

    def test_are_sent_dense_in_the_dtype_of_the_server(self, server, tmp_path):
        server.answers["/server_info"] = {"vllm_config": {"model_config": {"dtype": "torch.bfloat16"}}}
        trainer = make_trainer(server.url, tmp_path, quantized_model())
        trainer.vllm_generation.sync_weights()
        (received,) = trainer.vllm_generation.vllm_client.client.received
        dense = AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR)
        assert {name: t.shape for name, t in received.items()} == {n: p.shape for n, p in dense.named_parameters()}
        assert {tensor.dtype for tensor in received.values()} == {torch.bfloat16}
        assert trainer.vllm_generation.vllm_client.client.resets == 1

    def test_are_checked_once_and_after_each_restart(self, server, tmp_path, checks):
        trainer = make_trainer(server.url, tmp_path, quantized_model())
        trainer.vllm_generation.sync_weights()
        trainer.vllm_generation.sync_weights()
        assert len(checks) == 1
        server.version = "default"
        completions(trainer)
        assert len(checks) == 2

    def test_that_are_read_wrongly_end_the_run_before_anything_is_sent(self, server, tmp_path, monkeypatch):
        dequantize = weights.dequantize_4bit
        monkeypatch.setattr(weights, "dequantize_4bit", lambda *arguments: dequantize(*arguments).flip(0))
        trainer = make_trainer(server.url, tmp_path, quantized_model())
        with pytest.raises(
            VLLMServerError, match=r"^model\.layers\.0\.self_attn\.q_proj\.weight as it would be sent"
        ) as error:
            trainer.vllm_generation.sync_weights()
        assert "\n" not in str(error.value)
        assert not trainer.vllm_generation.vllm_client.client.received and server.version == "default"

    @pytest.mark.parametrize("has_weight_info", [True, False])
    def test_end_the_run_with_the_cure_if_the_server_has_no_development_endpoints(
        self, server, tmp_path, has_weight_info
    ):
        trainer = make_trainer(server.url, tmp_path, quantized_model())
        trainer.vllm_generation.sync_weights()
        server.answers["/server_info"] = None
        if not has_weight_info:
            server.answers["/weight_info"] = None
        with pytest.raises(VLLMServerError, match=r"no development endpoints.*VLLM_SERVER_DEV_MODE=1") as error:
            trainer.vllm_generation.sync_weights()
        assert str(error.value).endswith("Then: go on from checkpoint-4")

    def test_go_on_if_the_server_fails_when_it_is_asked_for_its_dtype(self, server, tmp_path):
        trainer = make_trainer(server.url, tmp_path, quantized_model())
        server.answers["/server_info"] = [500, server.answers["/server_info"]]
        trainer.vllm_generation.sync_weights()
        assert server.version == trainer.vllm_generation.vllm_client.mark
