"""The command that starts a vLLM server: for the rollouts of a training run, or for a trained model."""

import shlex


_LORA_RANKS = (16, 32, 64, 128, 256, 320, 512)  # the values of --max-lora-rank that vLLM 0.31 takes
_DEFAULT_LORA_RANK = 16

# vLLM's parsers by `config.model_type`, for models whose chat template can open a reasoning block (vLLM 0.31).
_REASONING_PARSERS = {
    "glm4_moe": "glm45",
    "gpt_oss": "openai_gptoss",
    "qwen3": "qwen3",
    "qwen3_5": "qwen3",
    "qwen3_5_moe": "qwen3",
    "qwen3_moe": "qwen3",
}


def serve_command(
    model: str,
    *,
    training: bool = False,
    port: int | None = None,
    adapter: str | None = None,
    lora_rank: int | None = None,
    tool_call_parser: str | None = None,
    reasoning_parser: str | None = None,
    separator: str = " ",
) -> str:
    r"""
    The shell command that serves a model with vLLM.

    Example:

    ```python
    >>> serve_command("Qwen/Qwen3-1.7B", port=8001, tool_call_parser="hermes")
    'vllm serve Qwen/Qwen3-1.7B --port 8001 --enable-auto-tool-choice --tool-call-parser hermes'
    >>> print(serve_command("Qwen/Qwen3-1.7B", adapter="me/calls", lora_rank=24, separator=" \\\n  "))
    vllm serve Qwen/Qwen3-1.7B \
      --enable-lora --lora-modules calls=me/calls \
      --max-lora-rank 32

    ```
    """
    groups = [f"vllm serve {shlex.quote(model)}"]
    if port is not None:
        groups.append(f"--port {port}")
    if training:
        groups[0] = f"VLLM_SERVER_DEV_MODE=1 {groups[0]}"
        groups.append("""--weight-transfer-config '{"backend": "nccl"}'""")
        groups.append("--logprobs-mode processed_logprobs --max-logprobs -1")
    if adapter is not None:
        name = adapter.rstrip("/").split("/")[-1]
        groups.append(f"--enable-lora --lora-modules {shlex.quote(f'{name}={adapter}')}")
    if lora_rank is not None and lora_rank > _DEFAULT_LORA_RANK:
        served = next((rank for rank in _LORA_RANKS if rank >= lora_rank), None)
        if served is None:
            raise ValueError(
                f"vLLM serves LoRA adapters up to rank {_LORA_RANKS[-1]}, and this one has rank {lora_rank}: merge it "
                "into its base model and serve that"
            )
        groups.append(f"--max-lora-rank {served}")
    if tool_call_parser is not None:
        groups.append(f"--enable-auto-tool-choice --tool-call-parser {tool_call_parser}")
    if reasoning_parser is not None:
        groups.append(f"--reasoning-parser {reasoning_parser}")
    return separator.join(groups)


def reasoning_parser_of(model_type: str, chat_template: str | None) -> str | None:
    """vLLM's parser for the reasoning of a model."""
    return _REASONING_PARSERS.get(model_type) if "think" in (chat_template or "") else None
