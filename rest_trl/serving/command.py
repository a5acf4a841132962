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

    Args:
        model (`str`):
            Name or path of the model; of an adapter's base model, if there is an `adapter`.
        training (`bool`, *optional*, defaults to `False`):
            Whether a training run generates with the server, which then needs the development endpoints, weight
            transfer and the log-probabilities of what was sampled.
        port (`int`, *optional*):
            Port of the server. By default vLLM's own.
        adapter (`str`, *optional*):
            Name or path of a LoRA adapter; clients ask for it by the last component of this.
        lora_rank (`int`, *optional*):
            Largest rank of the adapter. The command names it only where vLLM's default is too small.
        tool_call_parser (`str`, *optional*):
            vLLM's parser for the syntax of the tool calls.
        reasoning_parser (`str`, *optional*):
            vLLM's parser for the reasoning, see [`reasoning_parser_of`].
        separator (`str`, *optional*, defaults to `" "`):
            What stands between two groups of arguments, such as a line break with its backslash.

    Returns:
        `str`

    Raises:
        ValueError: if vLLM can serve no adapter of this rank.

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
    """
    vLLM's parser for the reasoning of a model.

    Args:
        model_type (`str`):
            `config.model_type` of the model.
        chat_template (`str`, *optional*):
            Its chat template. A template without reasoning needs no parser, whatever the type of the model.

    Returns:
        `str`, or `None` if the model does not reason or vLLM has no parser for it.
    """
    return _REASONING_PARSERS.get(model_type) if "think" in (chat_template or "") else None
