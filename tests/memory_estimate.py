"""
How much memory of one GPU a LoRA or QLoRA run takes, as the heads of recipes state it: computed from the dimensions of
the model and the numbers of the recipe.

Nothing is measured, so `rest-trl doctor` says none of it. The estimate is for the longest rows,
so that a recipe that fits should run.
"""

from dataclasses import dataclass
from typing import Any

from rest_trl.lab.tiny import TINY_DATASETS


GIB = 2**30
# [ours] A guess: the CUDA context, its libraries and fragmentation.
CUDA = 2 * GIB
# [ours] Guesses: what vLLM keeps while it sleeps (CUDA graphs), and what its largest forward pass takes of its share.
ASLEEP, PASS = 1 * GIB, 1.5 * GIB
# [TRL] Logits are computed in tiles of this many ids of the vocabulary (`_CHUNKED_LOGPROB_CHUNK_SIZE`).
LOGITS_TILE = 32_768
# [ours] GiB that a card of so many nominal GB offers: one of 24 GB has 22.5 to 24, one of 80 GB has 79.
OFFERED = {24: 22.5, 80: 79.0}
TINY_PROMPT = 256  # tokens: the longest prompt of the tiny world has fewer, whatever the tokenizer
MODEL_TYPES = ("qwen3", "llama")


@dataclass(frozen=True)
class Dimensions:
    """What an estimate needs of a model's config.json; `norms_queries` is whether queries and keys have a norm."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocab: int
    tied: bool
    norms_queries: bool

    @classmethod
    def of(cls, config: Any) -> "Dimensions | None":
        """
        Read the dimensions of a [`~transformers.PretrainedConfig`].

        Returns:
            [`Dimensions`] or `None`: `None` for an architecture whose layers are not those of Qwen3 or Llama.
        """
        if config.model_type not in MODEL_TYPES:
            return None
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.vocab_size,
            config.tie_word_embeddings,
            config.model_type == "qwen3",
        )

    @property
    def queries(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys, and of all values."""
        return self.key_value_heads * self.head_dim

    def linear(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers of all blocks, but for the head."""
        attention = [(self.hidden, self.queries), (self.hidden, self.keys), (self.hidden, self.keys)]
        attention.append((self.queries, self.hidden))
        mlp = [(self.hidden, self.intermediate), (self.hidden, self.intermediate), (self.intermediate, self.hidden)]
        return (attention + mlp) * self.layers

    def parameters(self) -> int:
        """How many weights the model has."""
        norms = 2 * self.hidden + 2 * self.head_dim * self.norms_queries
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return sum(i * o for i, o in self.linear()) + self.layers * norms + self.hidden + embeddings

    def adapters(self, rank: int) -> int:
        """How many weights adapters of a rank on all linear layers have."""
        return sum(rank * (i + o) for i, o in self.linear())

    def cache(self) -> int:
        """Bytes of the KV cache per token, in bfloat16."""
        return self.layers * 2 * self.keys * 2

    def activations(self, float32_adapters: bool) -> int:
        """Bytes that one layer keeps for its backward pass, per token; the parts are those that autograd keeps."""
        mlp = 4 * 2 * self.intermediate  # gate, its activation, up, their product
        norms = (2 * 4 + 2 * 4) * self.hidden  # two in float32 with their casts, the inputs of the projections
        # With a norm of queries and keys, both in float32; then queries, repeated keys and values, and the output.
        attention = (4 * (self.queries + self.keys) if self.norms_queries else 0) + 4 * 2 * self.queries
        if not float32_adapters:
            return mlp + norms + attention
        # Outputs of projections whose sum with the adapter's output is kept in bfloat16 as well as in float32.
        sums = 2 * self.intermediate + (4 * self.keys if self.norms_queries else 2 * (self.queries + self.keys))
        return mlp + norms + attention + sums


def estimate(dimensions: Dimensions, recipe: dict[str, Any], card: float) -> dict[str, float] | None:
    """
    Estimate the memory of a run on one GPU.

    Args:
        dimensions ([`Dimensions`]):
            Those of the model.
        recipe (`dict[str, Any]`):
            Arguments of the run, defaults included.
        card (`float`):
            GiB that the card offers, of which vLLM takes its share.

    Returns:
        `dict[str, float]` or `None`: GiB of each part, named as in the head of a recipe, and the `peak`: the sum of
        what is always there and the larger of rollouts and update. `None` unless the recipe has what the estimate
        assumes: LoRA on all linear layers, weights not in 8 bits, a limit of the prompt, and gradient checkpointing.
    """
    prompt, completion = longest_prompt(recipe), recipe.get("max_completion_length")
    is_lora = recipe.get("use_peft") and recipe.get("lora_target_modules") == "all-linear"
    is_quantized = bool(recipe.get("load_in_4bit"))
    if not (is_lora and prompt and completion and recipe.get("gradient_checkpointing")) or recipe.get("load_in_8bit"):
        return None
    d, length = dimensions, prompt + completion
    adapters, update = d.adapters(recipe.get("lora_r", 16)), recipe["per_device_train_batch_size"]
    packed = sum(i * o for i, o in d.linear())
    # Bytes of a weight, as it is loaded, and of what flows between layers, in whatever type these compute.
    width = 2 if recipe.get("dtype") in ("bfloat16", "float16") else 4
    # [QLoRA] Bytes per weight: 4 bits, an 8-bit scale for each 64 weights, a 32-bit scale for each 256 scales.
    nf4 = 0.5 + 1 / 64 + 4 / (64 * 256)
    quantized = packed if is_quantized else 0
    size: dict[str, float] = {
        "always: weights": quantized * nf4 + (d.parameters() - quantized) * width,
        # TRL keeps the adapters of a quantised model in bfloat16, PEFT those of another in float32.
        "always: adapters": adapters * 4 * (2 if is_quantized else 4),
        "always: CUDA": CUDA,
    }
    if not recipe.get("use_vllm"):
        steps = recipe.get("steps_per_generation") or recipe["gradient_accumulation_steps"]
        rollouts = recipe.get("generation_batch_size") or update * steps
        cached = rollouts * length * d.cache()
        last = cached + rollouts * length * 2 * d.queries * 2
        size["rollouts: with transformers"] = max(
            rollouts * prompt * (d.cache() + 8 * (d.intermediate + d.hidden)), last
        )
    elif recipe.get("vllm_mode", "colocate") == "colocate":
        share = recipe.get("vllm_gpu_memory_utilization", 0.3) * card * GIB
        asleep = recipe.get("vllm_enable_sleep_mode", False)
        size["rollouts: vLLM"] = share
        size["update: vLLM"] = ASLEEP if asleep else share
    size["update: inputs of all layers"] = update * length * d.layers * d.hidden * width
    size["update: one layer"] = 2 * update * length * d.activations(float32_adapters=not is_quantized)
    size["update: logits"] = 2 * update * completion * min(LOGITS_TILE, d.vocab) * 2
    moments = [sum(b for name, b in size.items() if name.startswith(moment)) for moment in ("rollouts", "update")]
    size["peak"] = sum(b for name, b in size.items() if name.startswith("always")) + max(moments)
    return {name: b / GIB for name, b in size.items()}


def longest_prompt(recipe: dict[str, Any]) -> int:
    """Tokens of the longest prompt that a recipe trains on; 0 if it sets no limit."""
    return TINY_PROMPT if recipe.get("dataset_name") in TINY_DATASETS else recipe.get("max_prompt_length") or 0


def cached_completions(dimensions: Dimensions, recipe: dict[str, Any], card: float) -> int:
    """
    Estimate how many of the longest completions vLLM writes at once in its share of the card; the others wait.

    Args:
        dimensions, recipe, card:
            As of [`estimate`].

    Returns:
        `int`
    """
    share = recipe.get("vllm_gpu_memory_utilization", 0.3) * card * GIB
    room = share - dimensions.parameters() * 2 - PASS
    length = longest_prompt(recipe) + recipe["max_completion_length"]
    return max(0, int(room // (length * dimensions.cache())))
