"""
Weight transfer into a vLLM server without NCCL: the trainer's side.

TRL's own client and protocol, with the two NCCL calls replaced.
"""

from trl.generation import vllm_client, vllm_generation
from vllm.distributed.utils import StatelessProcessGroup


class CPUCommunicator:
    """What TRL's client holds as its communicator: a group that broadcasts, see `cpu_weight_transfer`."""

    def __init__(self, init_info):
        self.group = StatelessProcessGroup.create(
            host=init_info["master_address"],
            port=init_info["master_port"],
            rank=0,
            world_size=init_info["world_size"],
        )


def broadcast_one_by_one(iterator, group, src, post_iter_func):
    for item in iterator:
        # A copy, because the trainer may hand out one tensor and change it in place for the next.
        group.group.broadcast(post_iter_func(item).detach().clone(), src=src)


class CPUVLLMClient(vllm_client.VLLMClient):
    def init_communicator(self, device=0):
        # TRL refuses every device but CUDA. The name alone has no effect, as the endpoint is not NCCL's.
        super().init_communicator(device="cuda")


def use_cpu_weight_transfer(monkeypatch):
    """
    Let TRL's server mode synchronise weights without a GPU.

    Args:
        monkeypatch (`pytest.MonkeyPatch`):
            Undoes it.
    """
    monkeypatch.setenv("VLLM_HOST_IP", "127.0.0.1")
    monkeypatch.setattr(vllm_client, "open_trainer_endpoint", CPUCommunicator)
    monkeypatch.setattr(vllm_client, "packed_nccl_broadcast_producer", broadcast_one_by_one)
    monkeypatch.setattr(vllm_generation, "VLLMClient", CPUVLLMClient)
