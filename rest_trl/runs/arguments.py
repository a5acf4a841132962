"""The arguments of a run as a model card publishes them: a recipe without what tells of the machine."""

import dataclasses
import re
from enum import Enum
from pathlib import PurePath
from typing import Any

from ..data.sources import is_local_path


# These say where a run happened, and nothing of what it was.
_PRIVATE = {
    "deepspeed",
    "hub_model_id",
    "hub_token",
    "hub_private_repo",
    "logging_dir",
    "log_completions_hub_repo",
    "output_dir",
    "overwrite_output_dir",
    "push_to_hub",
    "resume_from_checkpoint",
    "run_name",
    "trackio_space_id",
    "vllm_server_base_url",
    "vllm_server_host",
}
# `TrainingArguments` fills these in from the machine, whatever the user gave.
_DERIVED = {
    "accelerator_config",
    "dataloader_pin_memory",
    "debug",
    "disable_tqdm",
    "generation_batch_size",
    "pad_to_multiple_of",
    "report_to",
}
_INNER_PATH = re.compile(r"(?<![\w.:/<])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+-]+)+[/\\]([\w.@+-]+)")


def changed_arguments(*groups: Any) -> dict[str, Any]:
    """
    Collect the arguments that differ from their defaults, as a recipe of `rest-trl train` has them.

    Left out are those that say where a run happened (directories, hosts, tokens, names) and those that
    `TrainingArguments` derives from the machine.

    Args:
        groups:
            Instances of dataclasses, such as [`~rest_trl.ResTGRPOConfig`].

    Returns:
        `dict[str, Any]`: JSON-like values, without local directories.
    """
    arguments: dict[str, Any] = {}
    for group in groups:
        for field in dataclasses.fields(group):
            if not field.init or field.name in _PRIVATE | _DERIVED:
                continue
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            value = getattr(group, field.name)
            if value != default:
                arguments[field.name] = without_directories(value)
    # `TrainingArguments` sets these two from others, in most runs to these values. A recipe does not need them.
    accumulation = arguments.get("gradient_accumulation_steps", 1)
    if arguments.get("steps_per_generation") == accumulation:
        del arguments["steps_per_generation"]
    if arguments.get("bf16") is True:
        del arguments["bf16"]
    return arguments


def without_directories(value: Any) -> Any:
    """
    Reduce paths in a value to their last components; what JSON cannot hold becomes the name of its type.

    ```python
    >>> without_directories({"files": ["/home/me/secret/train.jsonl", "Qwen/Qwen3-1.7B"], "stop": "</tool_call>"})
    {'files': ['train.jsonl', 'Qwen/Qwen3-1.7B'], 'stop': '</tool_call>'}

    ```
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, dict):
        return {str(key): without_directories(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [without_directories(item) for item in value]
    if isinstance(value, str):
        # Of a path of any system, the last component stays.
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if is_local_path(value) else _INNER_PATH.sub(r"\1", value)
    return value if value is None or isinstance(value, bool | int | float) else type(value).__name__


def is_hub_id(name: str | None) -> bool:
    """Whether a name is `owner/name`, and neither a path on this machine nor a model or data set of the package."""
    if name is None or name.startswith(("tiny/", "bfcl/")) or is_local_path(name):
        return False
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None
