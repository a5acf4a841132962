"""What the model card says about a run, read from the trainer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from accelerate.utils import is_peft_model

from ...regions.rules import PRESETS, rule_name
from ...serving.command import reasoning_parser_of, serve_command
from ...tool_calls import Region, get_syntax


_CURVE_ROWS = 6
_LINE_BREAK = " \\\n  "
_MERGED = "merged"


class Serving(NamedTuple):
    """
    How the result of a run is served.

    Args:
        command (`str`, *optional*):
            The shell command for vLLM; `None` if vLLM cannot serve the model.
        merge (`str`, *optional*):
            Why the adapter must be merged into its base model before the command.
        parsed (`bool`):
            Whether the server parses the tool calls.
    """

    command: str | None
    merge: str | None
    parsed: bool


def coefficients_name(trainer: Any) -> str:
    """
    Name of the coefficient function that a trainer uses, which need not be the one that its arguments name.

    Args:
        trainer ([`ResTGRPOTrainer`]):
            The trainer.

    Returns:
        `str`: a preset, or the name of the user's function.
    """
    return trainer.rule_name if trainer.rule_name in PRESETS else function_name(trainer.rule)


def has_coefficients_of_script(trainer: Any) -> bool:
    """Whether the trainer was given a coefficient function as an object, which its arguments cannot name."""
    return trainer.rule_name != rule_name(trainer.args.coefficients)


def function_name(function: Callable[..., Any]) -> str:
    """
    Module and name of a callable.

    Args:
        function (`Callable`):
            A function, a method, a `functools.partial` or an object with `__call__`.

    Returns:
        `str`: for a partial, with its keyword arguments; for an object, the name of its class.

    Example:

    ```python
    >>> import json
    >>> function_name(partial(json.dumps, indent=2))
    'json.dumps(indent=2)'

    ```
    """
    if isinstance(function, partial):
        keywords = ", ".join(f"{name}={_brief(value)}" for name, value in function.keywords.items())
        return f"{function_name(function.func)}({keywords})"
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    # The path of a function that is defined inside another one says nothing to a reader.
    name = named.__qualname__.rpartition("<locals>.")[2]
    return name if named.__module__ == "__main__" else f"{named.__module__}.{name}"


def _brief(value: Any) -> str:
    # Anything longer may hold a path of the user's machine, or an address in memory.
    short = value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and value.isidentifier())
    return repr(value) if short else type(value).__name__


def adapter_kind(model: Any) -> str | None:
    """
    The kind of adapter that was trained.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The policy.

    Returns:
        `str` such as `"LoRA"` or `"prompt tuning"`, or `None` if the model itself was trained.
    """
    if not is_peft_model(model):
        return None
    kind: str = model.active_peft_config.peft_type.value
    return {"LORA": "LoRA", "IA3": "IA3"}.get(kind, kind.replace("_", " ").lower())


def serving(trainer: Any, hub_model_id: str, base_model: str) -> Serving:
    """
    How to serve what a trainer has trained.

    Args:
        trainer ([`ResTGRPOTrainer`]):
            The trainer.
        hub_model_id (`str`):
            Where the model or its adapter will be.
        base_model (`str`):
            The model that an adapter belongs to.

    Returns:
        [`Serving`]
    """
    parser = get_syntax(trainer.tool_call_syntax).vllm_parser
    parsed = parser is not None
    command = partial(
        serve_command,
        tool_call_parser=parser,
        reasoning_parser=(
            reasoning_parser_of(trainer.model.config.model_type, trainer.processing_class.chat_template)
            if parsed
            else None
        ),
        separator=_LINE_BREAK,
    )
    kind = adapter_kind(trainer.model)
    if kind is None:
        return Serving(command(hub_model_id), None, parsed)
    config = trainer.model.active_peft_config
    if config.is_prompt_learning:
        return Serving(None, None, parsed)
    if kind != "LoRA":
        return Serving(command(_MERGED), f"vLLM takes LoRA adapters only, and this one is {kind}", parsed)
    # What else vLLM 0.31 refuses in an adapter.
    if config.use_dora or config.modules_to_save or config.bias != "none":
        return Serving(command(_MERGED), "vLLM takes no DoRA, no trained biases and no `modules_to_save`", parsed)
    rank = max(config.r, *config.rank_pattern.values(), 1)
    try:
        return Serving(command(base_model, adapter=hub_model_id, lora_rank=rank), None, parsed)
    except ValueError:
        return Serving(command(_MERGED), f"vLLM takes no LoRA adapter of rank {rank}", parsed)


def quantization(model: Any) -> str | None:
    """The quantisation of a model's weights, or `None` without one."""
    config = model.config.to_dict().get("quantization_config")
    if config is None:
        return None
    four_bits = f", 4 bits ({config['bnb_4bit_quant_type']})" if config.get("load_in_4bit") else ""
    return f"`{config['quant_method']}`{four_bits}"


def region_rows(statistics: Any, logs: Sequence[dict[str, float]]) -> tuple[int | None, list[list[str]]]:
    """
    Entropy, share and coefficient of every region.

    Args:
        statistics ([`RegionStatistics`]):
            The running means.
        logs (`Sequence[dict[str, float]]`):
            The logs of the training steps.

    Returns:
        `tuple[int | None, list[list[str]]]`: the last step that was logged, and the rows; none before the first step.
    """
    if sum(statistics.shares) == 0:
        return None, []
    rows = []
    for region in list(Region)[1:]:
        name = region.name.lower()
        key = f"rest/coefficient/{name}"
        coefficient = next((log[key] for log in reversed(logs) if key in log), None)
        rows.append([name, *map(_number, (statistics.entropies[region], statistics.shares[region], coefficient))])
    return int(logs[-1]["step"]) if logs else None, rows


def curve_rows(logs: Sequence[dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """
    Rewards and exact accuracy at a few steps, evenly spaced over the run.

    Args:
        logs (`Sequence[dict[str, float]]`):
            The logs of the training steps.

    Returns:
        `tuple[list[str], list[list[str]]]`: the columns and the rows.
    """
    if not logs:
        return [], []
    parts = sorted(key for key in logs[-1] if key.startswith("rewards/") and key.endswith("/mean"))
    keys = ["reward", *parts, *(["rest/reward/exact"] if "rest/reward/exact" in logs[-1] else [])]
    last = len(logs) - 1
    picked = sorted({round(index * last / (_CURVE_ROWS - 1)) for index in range(_CURVE_ROWS)})
    return ["step", *keys], [[str(logs[i]["step"]), *(_number(logs[i].get(key)) for key in keys)] for i in picked]


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3f}"
