"""
Going on with a vLLM server that restarts, and ending clearly with one that is gone.

Only the main process talks to the server, while the other ranks wait in collectives for what it makes of an answer. A
failed request is therefore noted, the collective brought to its end, and the failure handled on all ranks alike.

Not covered: a server that dies while NCCL carries weights to it, milliseconds to seconds per step. NCCL then waits for
its peer for ever; kill the training and resume. At any other time a server that died or was restarted is noticed,
because the mark of its weights is read before each transfer and after each generation.
"""

import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import requests
import torch
from accelerate.logging import get_logger
from accelerate.utils import broadcast_object_list
from requests.adapters import HTTPAdapter
from transformers.trainer_utils import get_last_checkpoint
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration

from .server import check_config, serve_command, wait_until_healthy


logger = get_logger(__name__)

_ATTEMPTS = 3  # at one transfer or generation
_CONNECTIONS = 64  # as many as TRL's client uses at once


class VLLMServerError(ConnectionError):
    """The vLLM server failed for good. The message names the last checkpoint and how to go on from it."""


class _StaleWeightsError(Exception):
    """The server does not have the weights that this run sent last."""


def _brief(failure: Exception | None) -> str:
    return f"{type(failure).__name__}: {str(failure)[:200]}"


def guard(trainer: Any) -> None:
    """
    Let a trainer in vLLM server mode survive a restart of its server, and end clearly with a dead one.

    A failed transfer or generation is tried three times. Before each new try the server is awaited for
    `vllm_server_timeout` seconds; a restarted one, which has lost the mark that this run leaves with its weights, is
    joined again and gets all weights. Completions of a server without the mark are discarded.

    Args:
        trainer ([`~trl.GRPOTrainer`]):
            With `use_vllm=True` and `vllm_mode="server"`.
    """
    generation = trainer.vllm_generation
    generation.__class__ = type("GuardedGeneration", (_Generation, type(generation)), {})
    generation.trainer = trainer
    if trainer.accelerator.is_main_process:
        client = generation.vllm_client
        client.__class__ = type("GuardedClient", (_Client, type(client)), {})
        client.guard()


def _raise_for_server_error(response: requests.Response, *args: Any, **kwargs: Any) -> None:
    if response.status_code >= 500:
        raise requests.HTTPError(f"{response.status_code} from {response.url}: {response.text[:300]}")


class _Adapter(HTTPAdapter):
    """
    One request, one answer, where TRL's session repeats failed requests by itself, also to a restarted server, which
    has the weights of step 0. Keep-alive probes end the wait for a machine that is gone after about two minutes.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        options = [
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
        ]
        super().init_poolmanager(*args, socket_options=options, **kwargs)


class _Client(VLLMClient):
    """Client that notes failures where the other ranks wait for it, and marks the weights that it sends."""

    def guard(self) -> None:
        self.collective = False
        self.failure: Exception | None = None
        self.sent = False
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, _Adapter(pool_maxsize=_CONNECTIONS))
        self.session.hooks["response"].append(_raise_for_server_error)
        self.mark = f"rest-trl-{uuid4().hex}"
        self.found = self.weight_version()
        if self.found is None:
            logger.warning(
                f"the vLLM server at {self.base_url} has no /weight_info, so a restart is only noticed by a failed "
                "request: use vLLM 0.31"
            )
        elif self.found != "default":
            logger.warning(
                f"the vLLM server at {self.base_url} has weights of another run ({self.found}). If that run goes on, "
                "it will end: one server serves one run"
            )

    def weight_version(self) -> str | None:
        """What is marked as the weights of the server; `None` if it cannot mark them."""
        response = self.session.get(f"{self.base_url}/weight_info")
        return None if response.status_code == 404 else response.json()["weight_version"]

    def check_weights(self) -> None:
        version = self.weight_version()
        if not self.sent or version not in (self.mark, None):
            raise _StaleWeightsError("restarted" if version == "default" else f"has the weights of {version}")

    def _note(self, failure: Exception) -> None:
        if not self.collective:
            raise failure
        self.failure = failure

    def generate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            output = super().generate(*args, **kwargs)
            self.check_weights()
            return output
        except Exception as error:
            self._note(error)
        return {"prompt_ids": [], "completion_ids": [], "logprobs": [], "logprob_token_ids": []}

    def update_named_params(
        self, metadata: list[tuple[str, str, list[int]]], named_params: Iterator[tuple[str, torch.Tensor]]
    ) -> None:
        try:
            if self.sent:
                self.check_weights()  # a transfer to a server that has left the group would wait for it
            super().update_named_params(metadata, named_params)
            if self.weight_version() is not None:
                self._post(f"{self.base_url}/update_weight_version", json={"new_version": self.mark})
            self.sent = True
        except Exception as error:
            self.sent = False
            self._note(error)
            for _ in named_params:  # the other ranks gather along, and adapters are unmerged at the end
                pass

    def reset_prefix_cache(self) -> None:
        if self.failure is None:
            try:
                super().reset_prefix_cache()
            except Exception as error:
                self._note(error)


class _Generation(VLLMGeneration):
    """Generation that goes on with a restarted server."""

    trainer: Any

    def sync_weights(self) -> None:
        self._persist(super().sync_weights)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self._persist(partial(super().generate, *args, **kwargs), send_first=True)

    def _persist(self, call: Callable[[], Any], send_first: bool = False) -> Any:
        main = self.accelerator.is_main_process
        for _ in range(_ATTEMPTS):
            if main:
                self.vllm_client.collective, self.vllm_client.failure = True, None
            try:
                output = call()
            finally:
                if main:
                    self.vllm_client.collective = False
            state: list[Any] = [None, None, None]
            if main:  # the others get its state
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
        """Wait for the server and join it again if it was restarted; what is wrong if that is hopeless."""
        client, args, trainer = self.vllm_client, self.trainer.args, self.trainer
        failure = client.failure
        if client.sent and not isinstance(failure, requests.RequestException | _StaleWeightsError):
            return self._farewell(f"the vLLM server at {client.base_url} refused a request ({failure})")
        logger.warning(
            f"step {trainer.state.global_step + 1}: the vLLM server at {client.base_url} failed ({_brief(failure)}); "
            f"waiting for it for at most {args.vllm_server_timeout:.0f} s"
        )
        try:
            wait_until_healthy(client.base_url, args.vllm_server_timeout)
            version = client.weight_version()
            if version not in (client.mark, client.found, "default"):
                return self._farewell(f"another run ({version}) has taken the vLLM server at {client.base_url}")
            client.sent = client.sent and version == client.mark
            if not client.sent:
                check_config(client.base_url, args, trainer.model.config._name_or_path, trainer.model.config)
                client.close_communicator()
                client.init_communicator(device=self.accelerator.device)
                logger.warning(f"joined the vLLM server at {client.base_url} again: all weights are sent anew")
        except requests.RequestException as error:
            client.sent = False
            logger.warning(f"the vLLM server at {client.base_url} failed again ({_brief(error)})")
        except Exception as error:  # no server, or not one to train with
            return self._farewell(str(error))
        return None

    def _farewell(self, cause: str) -> str:
        args, step = self.trainer.args, self.trainer.state.global_step
        checkpoint = get_last_checkpoint(args.output_dir) if os.path.isdir(args.output_dir) else None
        way_on = (
            f"run the training command again with --resume_from_checkpoint true: it goes on from {checkpoint}"
            if checkpoint
            else f"train again: there is no checkpoint in {args.output_dir} yet (save_steps={args.save_steps})"
        )
        start = serve_command(args, self.trainer.model.config._name_or_path)
        return f"training stopped after step {step}: {cause}. Start the server ({start}), then {way_on}"
