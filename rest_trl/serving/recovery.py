"""
Lets training go on after a restart of its vLLM server, and end with a clear message if the server is gone.

Only the main process talks to the server, while the other ranks wait for it in collectives. A failed request is
therefore only noted at first; once the collective is complete, all ranks handle the failure alike.

A server that dies during an NCCL transfer of weights, which takes milliseconds to seconds per step, is not covered:
NCCL then waits for its peer forever. Kill the training and resume. At any other time a server that died or was
restarted is noticed, because the mark of its weights is read before each transfer and after each generation.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import requests
import torch
from accelerate.logging import get_logger
from accelerate.utils import broadcast_object_list

from .guarded_client import GuardedClient, StaleWeightsError
from .server import check_config, start_command
from .weights import (
    check_dequantization,
    check_sendable,
    dequantized_metadata,
    is_quantized,
    iter_dequantized_params,
)


if TYPE_CHECKING:  # a TRL that moves this class must not break runs without a server
    from trl.generation.vllm_generation import VLLMGeneration

logger = get_logger(__name__)

_ATTEMPTS = 3  # for each transfer or generation


class VLLMServerError(ConnectionError):
    """Training cannot go on with the vLLM server. The message says why, and how to go on from the last checkpoint."""


class _WrongWeightsError(Exception):
    """The weights that would be sent are not those of the policy."""


def guard(trainer: Any) -> None:
    """
    Let a trainer in vLLM server mode survive a restart of its server, and end clearly with a dead one.

    The trainer's `vllm_generation` is replaced by a [`GuardedGeneration`] around it.
    """
    trainer.vllm_generation = GuardedGeneration(trainer.vllm_generation, trainer)


def _brief(failure: Exception | None) -> str:
    return f"{type(failure).__name__}: {str(failure)[:200]}"


class GuardedGeneration:
    """
    Wraps TRL's generation: it goes on with a restarted server, and sends a quantised policy as dense tensors.

    A transfer or generation is tried up to three times. Before each new try the main process waits for the server for
    at most `vllm_server_timeout` seconds. A restarted server has lost the mark that this run leaves with its weights;
    it is joined again and gets all weights. Completions of a server without the mark are discarded.
    """

    def __init__(self, generation: "VLLMGeneration", trainer: Any) -> None:
        self.generation, self.trainer = generation, trainer
        self.is_main = generation.accelerator.is_main_process
        self.quantized = is_quantized(generation.model)
        if self.quantized:
            check_sendable(generation.model, generation.accelerator)
        if self.is_main:
            self.vllm_client = generation.vllm_client = GuardedClient(generation.vllm_client)

    @property
    def generation_kwargs(self) -> dict[str, Any]:
        """Settings of TRL's generation, which a rollout with branches changes for each of its parts."""
        return self.generation.generation_kwargs

    @generation_kwargs.setter
    def generation_kwargs(self, value: dict[str, Any]) -> None:
        self.generation.generation_kwargs = value

    @property
    def max_completion_length(self) -> int:
        """Limit of TRL's generation, in tokens."""
        return self.generation.max_completion_length

    def sync_weights(self) -> None:
        """Give the server the weights of the policy."""
        self._persist(self._send_dequantized if self.quantized else self.generation.sync_weights)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """See [`~trl.generation.vllm_generation.VLLMGeneration.generate`]."""
        return self._persist(partial(self.generation.generate, *args, **kwargs), send_first=True)

    def _send_dequantized(self) -> None:
        if not self.is_main:  # no parameter is sharded, so nothing is gathered from the other ranks
            return
        client, model = self.vllm_client, self.generation.model
        try:
            if not client.sent:
                check_dequantization(model)
        except ValueError as error:
            client.note(_WrongWeightsError(str(error)))
            return
        try:
            config = client.server.config()
        except requests.RequestException as error:
            client.note(error)
            return
        if config is None:  # it had them at the start of the run
            client.sent = False
            client.note(StaleWeightsError("restarted without VLLM_SERVER_DEV_MODE=1"))
            return
        dtype = getattr(torch, config["model_config"]["dtype"].removeprefix("torch."))
        client.update_named_params(dequantized_metadata(model, dtype), iter_dequantized_params(model, dtype))
        client.reset_prefix_cache()

    def _persist(self, call: Callable[[], Any], send_first: bool = False) -> Any:
        for _ in range(_ATTEMPTS):
            if self.is_main:
                self.vllm_client.collective, self.vllm_client.failure = True, None
            try:
                output = call()
            finally:
                if self.is_main:
                    self.vllm_client.collective = False
            state: list[Any] = [None, None, None]
            if self.is_main:  # the other ranks receive this state
                failed = self.vllm_client.failure is not None
                problem = self._recover() if failed else None
                state = [failed, problem, self.vllm_client.sent]
            failed, problem, sent = broadcast_object_list(state)
            if not failed:
                return output
            if problem is not None:
                raise VLLMServerError(problem)
            if send_first and not sent:
                self.sync_weights()
        raise VLLMServerError(self._farewell(f"the vLLM server failed {_ATTEMPTS} times, see the log"))

    def _recover(self) -> str | None:
        """Wait for the server and join it again if it was restarted; return what is wrong if training cannot go on."""
        client, args, trainer = self.vllm_client, self.trainer.args, self.trainer
        failure = client.failure
        if isinstance(failure, _WrongWeightsError):
            return str(failure)
        if client.sent and not isinstance(failure, requests.RequestException | StaleWeightsError):
            return self._farewell(f"the vLLM server at {client.base_url} refused a request ({failure})")
        logger.warning(
            f"step {trainer.state.global_step + 1}: the vLLM server at {client.base_url} failed ({_brief(failure)}); "
            f"waiting for it for at most {args.vllm_server_timeout:.0f} s"
        )
        try:
            client.server.wait_until_healthy(args.vllm_server_timeout)
            version = client.server.weight_version()
            # No mark at all is that of an old vLLM, or of a server that `check_config` refuses.
            if version not in (client.mark, client.found, "default", None):
                return self._farewell(f"another run ({version}) has taken the vLLM server at {client.base_url}")
            client.sent = client.sent and version == client.mark
            if not client.sent:
                check_config(client.server, args, trainer.model.config._name_or_path, trainer.model.config)
                client.rejoin(self.generation.accelerator.device)
                logger.warning(f"joined the vLLM server at {client.base_url} again: all weights are sent again")
        except requests.RequestException as error:
            client.sent = False
            logger.warning(f"the vLLM server at {client.base_url} failed again ({_brief(error)})")
        except Exception as error:  # there is no server, or it cannot serve this policy
            return self._farewell(str(error))
        return None

    def _farewell(self, cause: str) -> str:
        args, step = self.trainer.args, self.trainer.state.global_step
        way_on = self.trainer.way_on()
        start = start_command(args, self.trainer.model.config._name_or_path)
        return f"training stopped after step {step}: {cause}. Start the server ({start}). Then: {way_on}"
