"""Finds in advance what would end a run after its start, or let it go on as another run than was asked for."""

import json
import math
import os
import typing
from collections.abc import Callable
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedType, parse_flag_from_env
from transformers import PreTrainedTokenizerBase, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from .checkpoints import is_whole_safetensors


logger = get_logger(__name__)

# Comparisons are written so that NaN fails them.
_POSITIVE = "positive", lambda value: 0 < value < math.inf
_FROM_ONE = "at least 1", lambda value: 1 <= value < math.inf
_FROM_ZERO = "at least 0", lambda value: value >= 0
_SHARE = "in [0, 1]", lambda value: 0 <= value <= 1
_PROBABILITY = "in (0, 1]", lambda value: 0 < value <= 1
# Outside these bounds TRL and transformers stop in the first step, or go on and train something else.
_BOUNDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "per_device_train_batch_size": _FROM_ONE,
    "per_device_eval_batch_size": _FROM_ONE,
    "gradient_accumulation_steps": _FROM_ONE,
    "num_generations": _FROM_ONE,
    "steps_per_generation": _FROM_ONE,
    "num_iterations": _FROM_ONE,
    "learning_rate": _FROM_ZERO,
    "weight_decay": _FROM_ZERO,
    "max_grad_norm": _FROM_ZERO,
    "save_steps": _FROM_ZERO,
    "eval_steps": _FROM_ZERO,
    "warmup_steps": ("whole from 1 on", lambda value: value < 1 or value == math.floor(value)),  # a share below 1
    "temperature": _POSITIVE,
    "top_p": _PROBABILITY,
    "top_k": ("at least -1", lambda value: value >= -1),  # vLLM takes -1 for all tokens
    "min_p": _SHARE,
    "beta": _FROM_ZERO,
    "epsilon": _FROM_ZERO,
    "epsilon_high": _FROM_ZERO,
    "top_entropy_quantile": _SHARE,
}
# Mappings that may also be given as a string with a JSON object. Other mappings may be paths and are not checked.
_MAPPINGS = (
    "chat_template_kwargs",
    "generation_kwargs",
    "gradient_checkpointing_kwargs",
    "lr_scheduler_kwargs",
    "model_init_kwargs",
)
_SHARDING = {DistributedType.FSDP: "ACCELERATE_USE_FSDP", DistributedType.DEEPSPEED: "ACCELERATE_USE_DEEPSPEED"}


def check_numbers(args: Any) -> None:
    """Refuse numbers of a configuration that cannot be meant, before anything is computed with them."""
    hints = typing.get_type_hints(type(args))
    for name, value in vars(args).items():
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and hints.get(name) in (int, int | None) and not is_whole:
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        if name in _BOUNDS and value is not None:
            words, is_within = _BOUNDS[name]
            if not isinstance(value, Real):
                raise ValueError(f"{name} must be a number, got {value!r}")
            if not is_within(value):
                raise ValueError(f"{name} must be {words}, got {value}")


def check_mappings(args: Any) -> None:
    """
    Refuse strings that should be mappings and cannot be parsed. They would end a run only after the model is loaded.
    """
    for name in _MAPPINGS:
        value = vars(args).get(name)
        if isinstance(value, str):
            raise ValueError(f"{name}={value!r} is not a JSON object: write it like {name}='{{\"name\": 1}}'")
    pairs = args.optim_args.replace(" ", "").split(",") if args.optim_args else []
    wrong = next((pair for pair in pairs if pair.count("=") != 1), None)
    if wrong is not None:
        raise ValueError(
            f"optim_args has {wrong!r}, which is not NAME=VALUE: write it like optim_args='rank=8,scale=1'"
        )


def check_model(model: str) -> None:
    """Refuse a directory that holds no whole model. An id of the Hub is left to transformers."""
    path = Path(model)
    if not path.is_dir():
        return
    if not (path / "config.json").exists():
        if (path / "adapter_config.json").exists():
            raise FileNotFoundError(
                f"{model} holds an adapter and no model: merge it into its base (PEFT's merge_and_unload), or give "
                "the base"
            )
        raise FileNotFoundError(f"{model} holds no model: it has no config.json")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path / 'config.json'} is cut off or not JSON ({error}): copy the model again") from error
    if not isinstance(config, dict) or not config.get("architectures"):
        raise ValueError(f"{path / 'config.json'} names no architectures: give the directory of a trained model")
    cut_off = next((file for file in sorted(path.glob("*.safetensors")) if not is_whole_safetensors(file)), None)
    if cut_off is not None:
        raise ValueError(f"{cut_off} is cut off: copy or download the model again")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Refuse the empty tokenizer that transformers makes for a model without tokenizer files."""
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise ValueError(
            f"the tokenizer of {model} is empty: put the files of its tokenizer there, tokenizer.json first"
        )


def check_trackers(args: TrainingArguments) -> None:
    """Refuse trackers that are not installed. `Trainer` would raise a `RuntimeError`, as for a bug."""
    report_to: Any = args.report_to  # `TrainingArguments` has made a list of it
    available = get_available_reporting_integrations()
    missing = [name for name in report_to if name in INTEGRATION_TO_CALLBACK and name not in available]
    if missing:
        raise ImportError(
            f"report_to={missing[0]} needs the package {missing[0]}, which is not installed: pip install "
            f"{missing[0]}, or choose among {', '.join([*available, 'none'])}"
        )


def check_vllm(args: Any) -> None:
    """Refuse rollouts with vLLM where it is not installed, which TRL's client of a server needs as well."""
    if vars(args).get("use_vllm") and find_spec("vllm") is None:
        from ..serving import INSTALL_VLLM

        raise ImportError(f"vLLM is not installed: {INSTALL_VLLM}, or set use_vllm=false")


def check_processes(accelerator: Accelerator) -> None:
    """
    Report where accelerate has silently set up less than it was launched with.

    On a CPU, FSDP and DeepSpeed become DDP, and `accelerate launch --cpu --num_processes 2` starts one process.
    """
    for distributed_type, variable in _SHARDING.items():
        if parse_flag_from_env(variable) and accelerator.distributed_type != distributed_type:
            raise ValueError(
                f"accelerate was launched with {distributed_type.value}, but has set up "
                f"{accelerator.distributed_type.value} on {accelerator.num_processes} process(es), as it does on a "
                "CPU: leave out use_cpu where there are GPUs, or launch with recipes/accelerate/ddp.yaml"
            )
    # When `accelerate launch` starts a single process itself, without torchrun and hence without RANK, it sets
    # MASTER_ADDR only if it was asked for several. A user may also have exported it, so this is only a warning.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if accelerator.num_processes == 1 and launched and "RANK" not in os.environ:
        logger.warning(
            "Training runs on one process, although the environment names a main process (MASTER_ADDR). If several "
            "were asked for: `accelerate launch --cpu --num_processes N` and distributed_type MULTI_CPU start only "
            "one. Use `accelerate launch --multi_gpu --num_processes N`, or torchrun, with --use_cpu true"
        )


class PushAtTheEnd:
    """
    Mixin of a [`~transformers.Trainer`] that also trains where the Hub cannot be reached at the start.

    `Trainer` makes the repository before anything else. Here the push at the end makes it then.
    """

    args: Any
    hub_model_id: Any
    _has_asked_hub = False

    def init_hf_repo(self, token: str | None = None) -> None:
        """Make the repository, see [`~transformers.Trainer`]."""
        from .endings import is_unreachable  # which the trainer does without

        is_first, self._has_asked_hub = not self._has_asked_hub, True
        try:
            super().init_hf_repo(token)  # type: ignore[misc]
        except Exception as error:
            if not (is_first and is_unreachable(error)):
                raise
            logger.warning(
                f"The Hub cannot be reached ({type(error).__name__}: {error}). Training goes on, saves the model in "
                f"{self.args.output_dir}, and tries to push it at the end"
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.hub_model_id is not None:
            super()._push_from_checkpoint(checkpoint_folder)  # type: ignore[misc]
