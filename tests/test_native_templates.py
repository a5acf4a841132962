"""TRL's own loop of tool calls with the chat templates that it ships: what is sampled stays what it was."""

from typing import NamedTuple

import pytest
import torch
from chat_templates import TEMPLATES
from conftest import TRAINING_TEXTS
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOTrainer
from trl.chat_template_utils import qwen3_template

from rest_trl import Region, ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.regions import to_regions
from rest_trl.rewards import ToolSchemaReward


class Family(NamedTuple):
    """A chat template with the added tokens of its tokenizers, and turns as its models write them."""

    template: str
    tokens: tuple[str, ...]
    eos: str
    turns: tuple[str, ...]
    syntax: str
    response_template: dict | None = None


def think(city):
    return f"<think>\nI look at {city}.\n</think>\n\n"


def hermes(city):
    return f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call><|im_end|>'


def harmony(city):
    return (
        f"<|channel|>analysis<|message|>I look at {city}.<|end|><|start|>assistant to=functions.get_weather"
        f'<|channel|>commentary json<|message|>{{"city": "{city}"}}<|call|>'
    )


def llama(city):
    return f'{{"name": "get_weather", "parameters": {{"city": "{city}"}}}}<|eot_id|>'


# TRL ships no template for Mistral: a user brings the model's, here cut down to what a dialogue with tools needs, with
# a description of its answers for Transformers.
MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- "[INST]" + message.content + "[/INST]" }}
    {%- elif message.role == "tool" %}
        {{- "[TOOL_RESULTS]" + message.content + "[/TOOL_RESULTS]" }}
    {%- elif message.tool_calls %}
        {%- for call in message.tool_calls %}
            {{- "[TOOL_CALLS]" + call.function.name + "[ARGS]" + (call.function.arguments | tojson) }}
        {%- endfor %}
        {{- eos_token }}
    {%- else %}
        {{- message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL_ANSWERS = {
    "defaults": {"role": "assistant"},
    "start_anchor": ["[/INST]", "[/TOOL_RESULTS]"],
    "fields": {
        "tool_calls": {
            "open_pattern": r"\[TOOL_CALLS\](?P<name>\w+)\[ARGS\]",
            "close_pattern": r"</s>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close_pattern": r"</s>", "content": "text"},
    },
}
QWEN = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>")
FAMILIES = {
    "qwen3": Family(
        TEMPLATES["qwen3"],
        QWEN,
        "<|im_end|>",
        (*(think(city) + hermes(city) for city in ("Oslo", "Paris")), think("both") + "It is sunny.<|im_end|>"),
        "hermes",
    ),
    "qwen2_5": Family(
        TEMPLATES["qwen2_5"], QWEN[:2], "<|im_end|>", (hermes("Oslo"), hermes("Paris"), "Sunny.<|im_end|>"), "hermes"
    ),
    **{
        name: Family(
            TEMPLATES[name], LLAMA, "<|eot_id|>", (llama("Oslo"), llama("Paris"), "Sunny.<|eot_id|>"), "llama3_json"
        )
        for name in ("llama3_1", "llama3_2")
    },
    "gptoss": Family(
        TEMPLATES["gptoss"],
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|return|>"),
        "<|return|>",
        (harmony("Oslo"), harmony("Paris"), "<|channel|>final<|message|>Sunny.<|return|>"),
        "openai",
    ),
    "mistral": Family(
        MISTRAL,
        ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        "</s>",
        (*(f'[TOOL_CALLS]get_weather[ARGS]{{"city": "{city}"}}</s>' for city in ("Oslo", "Paris")), "Sunny.</s>"),
        "mistral",
        MISTRAL_ANSWERS,
    ),
}


def get_weather(city: str) -> str:
    """
    Weather of a city.

    Args:
        city: The city.
    """
    return f"<think>Rain in {city}</think>"


def tokenizer_of(family):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [*TRAINING_TEXTS, *family.turns],
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.tokens])
    bpe.add_special_tokens(["<pad>"])
    bos = {"bos_token": family.tokens[0]} if family.tokens[0] in ("<s>", "<|begin_of_text|>") else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=family.eos, pad_token="<pad>", chat_template=family.template, **bos
    )
    if family.response_template is not None:
        tokenizer.response_template = family.response_template
    return tokenizer


class Scripted(GRPOTrainer):
    """Below ResTGRPOTrainer, in the place of the sampling: all completions write the same turns."""

    turns: list[list[int]]
    seen: list[list[int]]

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        self.seen.append(list(prompt_ids[0]))
        return [list(self.turns[len(self.seen) - 1]) for _ in prompt_ids], None


class ScriptedTrainer(ResTGRPOTrainer, Scripted):
    pass


def make_trainer(path, family, **arguments):
    tokenizer = tokenizer_of(family)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=32768,
        eos_token_id=[
            tokenizer.convert_tokens_to_ids(token) for token in (family.eos, "<|call|>") if token in family.tokens
        ],
        pad_token_id=tokenizer.pad_token_id,
    )
    trainer = ScriptedTrainer(
        Qwen3ForCausalLM(config),
        [ToolSchemaReward()],
        ResTGRPOConfig(
            str(path),
            use_cpu=True,
            bf16=False,
            report_to="none",
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=4096,
            **arguments,
        ),
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": "Weather?"}]] * 2}),
        processing_class=tokenizer,
        tools=[get_weather],
    )
    trainer.seen = []
    trainer.turns = [tokenizer(turn, add_special_tokens=False)["input_ids"] for turn in family.turns]
    return trainer


def roll_out(trainer):
    trainer.model.train()
    output = trainer._generate_and_score_completions([dict(trainer.train_dataset[0]) for _ in range(2)])
    kept = output["completion_mask"][0].bool()
    return output, output["completion_ids"][0][kept].tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def run(request, tmp_path_factory):
    family = FAMILIES[request.param]
    trainer = make_trainer(tmp_path_factory.mktemp("run"), family)
    return family, trainer, *roll_out(trainer)


class TestEveryTemplate:
    def test_leaves_the_sampled_ids_of_all_turns_as_they_were(self, run):
        _, trainer, output, ids = run
        (turns,) = trainer.reader.turns([ids])
        assert [ids[turn.column : turn.column + len(turn.token_starts)] for turn in turns] == trainer.turns
        assert (output["completion_mask"] * output["tool_mask"])[0].sum() == sum(map(len, trainer.turns))

    def test_keeps_them_in_the_context_of_later_turns(self, run):
        _, trainer, _, ids = run
        first, *later = trainer.seen
        assert len(trainer.seen) == 3
        for prompt, turn in zip(later, trainer.reader.turns([ids])[0][1:], strict=True):
            assert prompt == first + ids[: turn.column]

    def test_reads_every_turn_as_it_reads_it_alone(self, run):
        family, trainer, output, _ = run
        assert trainer.tool_call_syntax == family.syntax
        policy = (output["completion_mask"] * output["tool_mask"])[0].bool()
        parts = output["part_ids"][0]
        alone = [trainer.partitioner.read_lists([turn]).part_ids[0] for turn in trainer.turns]
        assert torch.equal(parts[policy], torch.cat(alone))
        assert parts[~policy].eq(0).all()

    def test_gives_no_region_to_what_it_puts_around_a_turn(self, run):
        _, trainer, output, _ = run
        regions, ids = to_regions(output["part_ids"])[0], output["completion_ids"][0]
        decode = trainer.processing_class.decode
        outside = decode(ids[(regions == Region.NONE) & output["completion_mask"][0].bool()])
        assert "Rain in Oslo" in outside and "Rain in Paris" in outside and "get_weather(" not in outside
        values = decode(ids[regions == Region.PARAMETERS])
        assert "Oslo" in values and "Paris" in values and "Rain" not in values

    def test_has_calls_that_fit_their_tools(self, run):
        _, trainer, _, _ = run
        assert list(trainer._logs["rewards"]["tool_schema_reward"]) == [0.0, 0.0]


class TestReasoningOfEarlierTurns:
    """Qwen3's template drops it; TRL's loop never renders a turn again."""

    def test_stays_in_context_and_has_its_region(self, tmp_path):
        trainer = make_trainer(tmp_path, FAMILIES["qwen3"])
        output, _ = roll_out(trainer)
        decode = trainer.processing_class.decode
        assert all("I look at Oslo." in decode(prompt) for prompt in trainer.seen[1:])
        reasoning = decode(output["completion_ids"][0][to_regions(output["part_ids"])[0] == Region.REASONING])
        assert [place in reasoning for place in ("Oslo", "Paris", "both", "Rain")] == [True, True, True, False]


class TestTemplatesThatChangeEarlierTurns:
    def test_are_refused_where_trl_has_none_in_their_place(self, tmp_path):
        template = TEMPLATES["qwen3"] + "{# of my own #}"
        family = FAMILIES["qwen3"]._replace(template=template)
        with pytest.raises(ValueError, match="Unrecognized chat template"):
            make_trainer(tmp_path, family)
        with pytest.raises(ValueError, match="prefix"):
            make_trainer(tmp_path, family._replace(response_template=qwen3_template))
