import copy
from types import SimpleNamespace

import pytest
from engines.fake_vllm import CONFIG, FakeVLLM
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig

from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.serving.server import check_prefix_caching, check_server


TINY = str(TINY_MODEL_DIR)


def changed(**settings):
    config = copy.deepcopy(CONFIG)
    for name, value in settings.items():
        (config if name in config else config["model_config"])[name] = value
    return {"/server_info": {"vllm_config": config}}


def check(url, model=TINY, length=32, **loop):
    args = GRPOConfig(
        "unused",
        use_cpu=True,
        bf16=False,
        vllm_server_base_url=url,
        vllm_server_timeout=0,
        max_completion_length=length,
    )
    check_server(model, args, **loop)


@pytest.fixture
def one_layer(tmp_path):
    """A model that the tiny one's weights do not fit."""
    config = Qwen3Config.from_pretrained(TINY_MODEL_DIR).to_dict() | {"num_hidden_layers": 1, "layer_types": None}
    Qwen3ForCausalLM(Qwen3Config(**config)).save_pretrained(tmp_path)
    return str(tmp_path)


class TestCheckServer:
    @pytest.mark.parametrize("as_model", [False, True], ids=["name", "model"])
    def test_passes_a_server_with_the_policy(self, as_model):
        model = AutoModelForCausalLM.from_pretrained(TINY) if as_model else TINY
        with FakeVLLM(changed(model=TINY)) as server:
            check(server.url, model)

    @pytest.mark.parametrize("end", ["/v1", "/v1/", "/"])
    def test_refuses_an_address_to_which_trl_cannot_add_its_paths(self, end):
        with (
            FakeVLLM(changed(model=TINY)) as server,
            pytest.raises(ValueError, match=rf"^vllm_server_base_url={server.url}{end} .* write {server.url}$"),
        ):
            check(server.url + end)

    def test_names_the_command_that_starts_a_server_that_is_not_there(self):
        with FakeVLLM() as server:
            url = server.url
        with pytest.raises(ConnectionError, match=f"no vLLM server answers at {url} for 0 s .*start it: .*{TINY}"):
            check(url)

    @pytest.mark.parametrize(
        ("answers", "cause"),
        [
            ({"/server_info": None}, "no development endpoints.*VLLM_SERVER_DEV_MODE=1"),
            (changed(model=TINY, weight_transfer_config=None), "cannot take weights.*--weight-transfer-config"),
            (changed(model=TINY, max_model_len=32), "--max-model-len 32.*max_completion_length=32"),
        ],
        ids=["no_development_endpoints", "no_weight_transfer", "short_context"],
    )
    def test_refuses_what_it_cannot_train_with(self, answers, cause):
        with FakeVLLM(answers) as server, pytest.raises(ValueError, match=cause):
            check(server.url)

    @pytest.mark.parametrize(("calls_tools", "room"), [(True, 64), (True, 65), (False, 64)])
    def test_warns_of_a_context_that_later_turns_may_exceed(self, calls_tools, room, caplog):
        with FakeVLLM(changed(model=TINY, max_model_len=room)) as server:
            check(server.url, calls_tools=calls_tools)
        assert ("twice max_completion_length=32" in caplog.text) == (calls_tools and room == 64)

    @pytest.mark.parametrize("is_on", [True, False])
    def test_warns_of_a_server_that_computes_each_prompt_again(self, is_on, caplog):
        with FakeVLLM(changed(model=TINY, cache_config={"enable_prefix_caching": is_on})) as server:
            check(server.url)
        assert ("--no-enable-prefix-caching" in caplog.text) == (not is_on)

    @pytest.mark.parametrize("is_on", [True, False])
    def test_warns_of_an_engine_that_computes_each_prompt_again(self, is_on, caplog):
        config = SimpleNamespace(cache_config=SimpleNamespace(enable_prefix_caching=is_on))
        check_prefix_caching(SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=config)))
        assert ("--enable-prefix-caching" in caplog.text) == (not is_on)

    def test_refuses_another_model(self, one_layer):
        with (
            FakeVLLM(changed(model=one_layer)) as server,
            pytest.raises(ValueError, match=r"serves another model.*\(num_hidden_layers 1, not 2\)"),
        ):
            check(server.url)

    def test_a_model_that_cannot_be_read_here_is_a_warning(self, caplog):
        with FakeVLLM(changed(model="no/such-model")) as server:
            check(server.url)
        assert "'no/such-model' cannot be read here" in caplog.text
