"""Whether training runs on the processes that it was launched for."""

import os

from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedType, parse_flag_from_env


logger = get_logger(__name__)

_SHARDING = {DistributedType.FSDP: "ACCELERATE_USE_FSDP", DistributedType.DEEPSPEED: "ACCELERATE_USE_DEEPSPEED"}


def check_processes(accelerator: Accelerator) -> None:
    """
    Say where accelerate has fallen back to less than it was launched for, which it does silently.

    On a CPU FSDP and DeepSpeed become DDP, and `accelerate launch --cpu --num_processes 2` starts one process.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            The trainer's.

    Raises:
        ValueError: if FSDP or DeepSpeed was asked for, and accelerate does something else.
    """
    for distributed_type, variable in _SHARDING.items():
        if parse_flag_from_env(variable) and accelerator.distributed_type != distributed_type:
            raise ValueError(
                f"accelerate was launched with {distributed_type.value}, but has set up "
                f"{accelerator.distributed_type.value} on {accelerator.num_processes} process(es), as it does on a "
                "CPU: leave out use_cpu where there are GPUs, or launch with recipes/accelerate/ddp.yaml"
            )
    # Where `accelerate launch` starts its one process itself, without torchrun and so without a rank, it gives the
    # address of the main process only if it was asked for several. But a user may have exported one: no error.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if accelerator.num_processes == 1 and launched and "RANK" not in os.environ:
        logger.warning(
            "Training runs on one process, although the environment names a main process (MASTER_ADDR). If several "
            "were asked for: `accelerate launch --cpu --num_processes N` and distributed_type MULTI_CPU start only "
            "one. Use `accelerate launch --multi_gpu --num_processes N`, or torchrun, with --use_cpu true"
        )
