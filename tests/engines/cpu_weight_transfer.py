"""
Weight transfer into a vLLM server without NCCL: the server's side.

The server loads it with `--worker-extension-cls engines.cpu_weight_transfer.WorkerExtension
--weight-transfer-config '{"backend": "cpu"}'`. Importing the module registers the engine in the worker.
"""

import torch
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead


class CPUWeightTransferEngine(NCCLWeightTransferEngine):
    """Receives the tensors one by one over a TCP store, in the order in which the trainer announced them."""

    def init_transfer_engine(self, init_info):
        rank = self.parallel_config.data_parallel_index * self.parallel_config.world_size + self.parallel_config.rank
        self.model_update_group = StatelessProcessGroup.create(
            host=init_info.master_address,
            port=init_info.master_port,
            rank=rank + init_info.rank_offset,
            world_size=init_info.world_size,
        )

    def receive_weights(self, update_info):
        for name, dtype_name, shape in zip(
            update_info.names, update_info.dtype_names, update_info.shapes, strict=True
        ):
            tensor = self.model_update_group.broadcast(None, src=0)
            if tensor.dtype != getattr(torch, dtype_name) or list(tensor.shape) != list(shape):
                raise ValueError(
                    f"{name} was announced as {dtype_name} {shape}, but came as {tensor.dtype} {[*tensor.shape]}"
                )
            self.model.load_weights([(name, tensor)])

    def finish_weight_update(self):
        super().finish_weight_update()
        # On CPU a layer multiplies with a packed copy of its weight. vLLM packs again those layers that received a
        # tensor, and a head tied to the embeddings receives none.
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)


WeightTransferEngineFactory.register_engine("cpu", CPUWeightTransferEngine)


class WorkerExtension:
    """Adds nothing to the worker: naming it makes the worker import this module."""
