"""The chat templates that TRL ships, and tokenizers that have nothing but a template and added tokens."""

from pathlib import Path

import trl
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast


TEMPLATES = {path.stem: path.read_text() for path in Path(trl.__file__).parent.glob("chat_templates/*.jinja")}

# By the syntax that they show, without the suffix `_training`.
TEMPLATES_OF_SYNTAX = {
    "deepseek_v3": {"deepseek_r1_distill", "deepseekv3"},
    "gemma4": {"diffusion_gemma", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"},
    "glm45": {"glm4moe"},
    "hermes": {"qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_vl"},
    "lfm2": {"lfm2", "lfm2_v2", "lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl"},
    "llama3_json": {"llama3_1", "llama3_2"},
    "openai": {"gptoss"},
    "qwen3_coder": {
        "nemotron_3_5_lightning",
        "nemotron_3_nano",
        "nemotron_3_super",
        "nemotron_3_ultra",
        "qwen3_5_nothink",
        "qwen3_5_think",
        "qwen3_6",
        "qwen3_8",
    },
}
# They show no calls, but Muse Glimmer's, whose syntax is none of ours.
TEMPLATES_WITHOUT_SYNTAX = {
    "cohere",
    "cohere2",
    "gemma",
    "gemma3",
    "idefics3",
    "llama3",
    "llava_next",
    "muse_glimmer",
    "phi3",
    "phi3_5",
    "qwen2_5_vl",
    "smolvlm",
}


def syntax_of_template(template: str) -> str | None:
    """Name of the syntax that a template of TRL shows, if any."""
    base = template.removesuffix("_training")
    return next((name for name, templates in TEMPLATES_OF_SYNTAX.items() if base in templates), None)


def tokenizer_with(chat_template, tokens=()) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.add_special_tokens(list(tokens))
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=chat_template)
