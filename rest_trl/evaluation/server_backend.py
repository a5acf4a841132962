"""Completions from a running vLLM server, many at a time, over its OpenAI API."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import as_completed
from typing import Any

import httpx
from accelerate.logging import get_logger
from anyio.from_thread import start_blocking_portal
from transformers import PreTrainedTokenizerBase

from .generation import GenerationSettings, prompt_token_ids, to_completion
from .samples import Completion


logger = get_logger(__name__)

_PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)  # seconds; a long completion in a full queue takes minutes
_BUSY = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)


class ServerGenerator:
    """
    Asks a vLLM server.

    Prompts are sent as token ids, and token ids come back: nothing is tokenised by two tokenizers.

    Args:
        base_url (`str`):
            Address of the server, such as `http://localhost:8000`.
        model_name (`str`):
            Path or Hub id of the model that it is to have.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        settings ([`GenerationSettings`]):
            How to sample.
        adapter (`str`, *optional*):
            Path or Hub id of the adapter that it is to have (`--lora-modules NAME=PATH`).
        served_model (`str`, *optional*):
            Name under which the server has the model or the adapter; may be left out if it has only one.
        concurrency (`int`, *optional*, defaults to `128`):
            Prompts under way at once.

    Raises:
        ConnectionError: if there is no vLLM server at that address.
        ValueError: if it does not have the model or the adapter.
    """

    def __init__(
        self,
        base_url: str,
        model_name: str,
        tokenizer: PreTrainedTokenizerBase,
        settings: GenerationSettings,
        adapter: str | None = None,
        served_model: str | None = None,
        concurrency: int = 128,
    ) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.tokenizer = tokenizer
        self.settings = settings
        self.concurrency = concurrency
        try:
            reply = httpx.get(f"{self.base_url}/v1/models", timeout=_TIMEOUT)
            models: list[dict[str, Any]] = reply.raise_for_status().json()["data"]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise ConnectionError(
                f"no vLLM server answers at {self.base_url} ({error}): start one with `vllm serve MODEL`, or give its "
                "address"
            ) from error
        # vLLM states of an adapter, and only of one, which model it belongs to.
        fitting = {model["id"]: model for model in models if bool(model.get("parent")) is (adapter is not None)}
        if served_model is None and len(fitting) == 1:
            served_model = next(iter(fitting))
        if served_model is None or served_model not in fitting:
            kind = "model" if adapter is None else "adapter"
            wanted = f"{kind} {served_model}" if served_model is not None else f"one {kind} to take for granted"
            cure = "" if adapter is None else ", started with `--enable-lora --lora-modules NAME=PATH`"
            raise ValueError(
                f"the server at {self.base_url} does not have {wanted}; its {kind}s: {', '.join(fitting) or 'none'}. "
                f"Give the name of one as served_model{cure}"
            )
        self.served_model = served_model
        root, expected = fitting[served_model].get("root"), adapter or model_name
        if root is not None and os.path.abspath(root) != os.path.abspath(expected):
            logger.warning(f"the server at {self.base_url} has {served_model} from {root}, not from {expected}")
        # Adapters do not state it; then it is that of their base model.
        self.max_model_len: int | None = next(
            (model["max_model_len"] for model in (fitting[served_model], *models) if model.get("max_model_len")), None
        )

    def generate(self, prompts: Mapping[str, str]) -> Iterator[Completion]:
        """See [`~rest_trl.evaluation.generation.Generator`]."""
        prompt_ids = prompt_token_ids(prompts, self.tokenizer, self.max_model_len)
        slots = asyncio.Semaphore(self.concurrency)
        client = httpx.AsyncClient(timeout=_TIMEOUT, limits=httpx.Limits(max_connections=self.concurrency))
        # An event loop in a thread: whoever breaks off waits for no completion, and notebooks have a loop already.
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            futures = [
                portal.start_task_soon(self._complete, client, slots, id, ids) for id, ids in prompt_ids.items()
            ]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()

    async def _complete(
        self, client: httpx.AsyncClient, slots: asyncio.Semaphore, id: str, prompt_ids: list[int]
    ) -> Completion:
        settings, max_tokens = self.settings, self.settings.max_new_tokens
        if self.max_model_len is not None:
            max_tokens = min(max_tokens, self.max_model_len - len(prompt_ids))
        request = {
            "model": self.served_model,
            "prompt": prompt_ids,
            "max_tokens": max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": settings.seed,
            # Else the server takes these from the checkpoint's generation_config.json.
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        async with slots:
            choice = await self._post(client, id, request)
        if choice.get("token_ids") is None:
            raise ValueError(f"the server at {self.base_url} returns no token ids: it must be vLLM from 0.22 on")
        # The stop reason is a token that ends completions beside the tokenizer's own.
        eos_token_ids = {self.tokenizer.eos_token_id, choice["stop_reason"]} - {None}
        return to_completion(
            id, choice["token_ids"], choice["finish_reason"] == "length", self.tokenizer, eos_token_ids
        )

    async def _post(self, client: httpx.AsyncClient, id: str, request: dict[str, Any]) -> dict[str, Any]:
        for pause in (*_PAUSES, None):
            try:
                answer = await client.post(f"{self.base_url}/v1/completions", json=request)
                if answer.is_client_error and answer.status_code not in _BUSY:
                    raise ValueError(f"the server at {self.base_url} refuses the prompt {id}: {answer.text[:500]}")
                choice: dict[str, Any] = answer.raise_for_status().json()["choices"][0]
                if choice["finish_reason"] in ("stop", "length"):
                    return choice
                reason = f"it broke off a completion: {choice['finish_reason']}"  # as it does when it is stopped
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
            if pause is not None:
                # The same words from every prompt under way, logged once.
                logger.warning_once(f"the server at {self.base_url} fails; trying again for {sum(_PAUSES):.0f} s")
                await asyncio.sleep(pause)
        raise ConnectionError(
            f"the server at {self.base_url} has failed {len(_PAUSES) + 1} times ({reason}): start it again and give "
            "the same command; what was generated is kept"
        )
