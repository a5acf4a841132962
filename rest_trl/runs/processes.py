"""Checks that training runs with the processes and the sharding that it was launched with."""

import os

from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedType, parse_flag_from_env


logger = get_logger(__name__)

_SHARDING = {DistributedType.FSDP: "ACCELERATE_USE_FSDP", DistributedType.DEEPSPEED: "ACCELERATE_USE_DEEPSPEED"}


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
