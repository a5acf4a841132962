"""Defaults of the arguments that the doctor looks at, which it has to know also where TRL cannot be imported."""

from typing import Any


# [TRL] 1.16: `ModelConfig` for `dtype` and `lora_r`, `GRPOConfig` for the others.
DEFAULTS = {
    "dtype": "float32",
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": True,
    "lora_r": 16,
    "max_completion_length": 512,
    "per_device_train_batch_size": 8,
    "use_vllm": False,
    "vllm_enable_sleep_mode": False,
    "vllm_gpu_memory_utilization": 0.3,
    "vllm_mode": "colocate",
    "vllm_server_base_url": None,
    "vllm_server_host": "0.0.0.0",
    "vllm_server_port": 8000,
}


def with_defaults(recipe: dict[str, Any]) -> dict[str, Any]:
    """
    Complete a recipe's arguments with the defaults of the training program.

    Args:
        recipe (`dict[str, Any]`):
            Its arguments.

    Returns:
        `dict[str, Any]`: with all arguments that the server's address and the memory depend on.
    """
    return {**DEFAULTS, **recipe}
