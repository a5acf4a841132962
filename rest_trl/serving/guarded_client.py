"""TRL's client of a vLLM server, with failures that can be handled on all ranks alike."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import requests
import torch
from accelerate.logging import get_logger

from .client import ServerClient, mount


if TYPE_CHECKING:  # a TRL that moves this class must not break runs without a server
    from trl.generation.vllm_client import VLLMClient


logger = get_logger(__name__)

_CONNECTIONS = 64  # as many as TRL's client uses at once


class StaleWeightsError(Exception):
    """The server does not have the weights that this run sent last."""


def _raise_for_server_error(response: requests.Response, *args: Any, **kwargs: Any) -> None:
    if response.status_code >= 500:
        raise requests.HTTPError(f"{response.status_code} from {response.url}: {response.text[:300]}")


class GuardedClient:
    """Wraps TRL's client: failures are noted instead of raised while other ranks wait, and sent weights get a mark."""

    # `client` has joined the server. From then on its session sends each `POST` only once.
    def __init__(self, client: "VLLMClient") -> None:
        self.client, self.base_url = client, client.base_url
        mount(client.session, _CONNECTIONS)
        client.session.hooks["response"].append(_raise_for_server_error)
        self.server = ServerClient(client.base_url)
        self.sent = False  # whether the server has weights of this run, as far as is known
        self.collective = False  # whether other ranks wait for the outcome, so that failures are noted
        self.failure: Exception | None = None
        self.mark = f"rest-trl-{uuid4().hex}"
        self.found = self.server.weight_version()
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

    def check_weights(self) -> None:
        """Raise if the server does not have the weights that this run sent last."""
        version = self.server.weight_version()
        # A vLLM before 0.31 never has a mark. A later one that has lost it lacks the development endpoints since then.
        has_no_marks = version is None and self.found is None
        if not self.sent or (version != self.mark and not has_no_marks):
            raise StaleWeightsError("restarted" if version in ("default", None) else f"has the weights of {version}")

    def note(self, failure: Exception) -> None:
        """Note a failure where other ranks wait, raise it elsewhere."""
        if not self.collective:
            raise failure
        self.failure = failure

    def generate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See [`~trl.generation.vllm_client.VLLMClient.generate`]; no completions if it fails."""
        if not self.collective or self.failure is None:
            try:
                output: dict[str, Any] = self.client.generate(*args, **kwargs)
                self.check_weights()
                return output
            except Exception as error:
                self.note(error)
        return {"prompt_ids": [], "completion_ids": [], "logprobs": [], "logprob_token_ids": []}

    def image_features(self, images: list[Any], **kwargs: Any) -> list[dict[str, Any] | None]:
        """See [`~trl.generation.vllm_client.VLLMClient.image_features`]; no features if it fails."""
        try:
            features: list[dict[str, Any] | None] = self.client.image_features(images, **kwargs)
            return features
        except Exception as error:
            self.note(error)
        return [None] * len(images)

    def update_named_params(
        self, metadata: list[tuple[str, str, list[int]]], named_params: Iterator[tuple[str, torch.Tensor]]
    ) -> None:
        """See [`~trl.generation.vllm_client.VLLMClient.update_named_params`]."""
        try:
            if self.sent:
                self.check_weights()  # a restarted server has left the group, and a transfer to it would wait forever
            self.client.update_named_params(metadata, named_params)
            if self.server.weight_version() is not None:
                self.server.mark_weights(self.mark)
            self.sent = True
        except Exception as error:
            self.sent = False
            self.note(error)
            for _ in named_params:  # the other ranks gather with this one, and adapters are unmerged at its end
                pass

    def reset_prefix_cache(self) -> None:
        """See [`~trl.generation.vllm_client.VLLMClient.reset_prefix_cache`]."""
        if self.failure is None:
            try:
                self.client.reset_prefix_cache()
            except Exception as error:
                self.note(error)

    def rejoin(self, device: torch.device) -> None:
        """Join a restarted server's group for weights."""
        self.client.close_communicator()
        self.client.init_communicator(device=device)
