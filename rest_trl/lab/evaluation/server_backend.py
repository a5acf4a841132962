"""Completions from a running vLLM server, many at a time, over its OpenAI API."""

import logging
import os
from collections.abc import Iterator, Mapping
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

import requests
from transformers import PreTrainedTokenizerBase

from ...serving.client import ServerClient
from .generation import Completion, GenerationSettings, prompt_seed, prompt_token_ids, to_completion


logger = logging.getLogger(__name__)

_PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts
_TIMEOUT = 600.0  # seconds; a long completion in a full queue takes minutes
_BUSY = (requests.codes.request_timeout, requests.codes.too_many_requests)


class ServerGenerator:
    """
    Completes prompts with a running vLLM server, which gets `concurrency` prompts at once.

    Prompts are sent as token ids, and completions are read as token ids, so only the local tokenizer matters. An
    adapter is one that the server has (`--lora-modules NAME=PATH`). `served_model` is the name under which the server
    has the model or the adapter, and may be left out if it has only one.
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
        self.client = ServerClient(base_url, connections=concurrency)
        self.base_url = self.client.url
        self.tokenizer, self.settings, self.concurrency = tokenizer, settings, concurrency
        self._warned = Lock()  # acquired at the first failure, so that there is one warning
        try:
            models = self.client.models()
        except requests.RequestException as error:
            raise ConnectionError(
                f"no vLLM server answers at {self.base_url} ({error}): start one with `vllm serve MODEL`, or give its "
                "address"
            ) from error
        # vLLM lists a parent model for adapters, and for nothing else.
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
        # vLLM lists no context length for adapters: that of the base model holds for them.
        self.max_model_len: int | None = next(
            (model["max_model_len"] for model in (fitting[served_model], *models) if model.get("max_model_len")), None
        )

    def generate(self, prompts: Mapping[str, str]) -> Iterator[Completion]:
        waiting: SimpleQueue[tuple[str, list[int]]] = SimpleQueue()
        finished: SimpleQueue[Completion | Exception] = SimpleQueue()
        prompt_ids = prompt_token_ids(prompts, self.tokenizer, self.max_model_len)
        for item in prompt_ids.items():
            waiting.put(item)
        stopped = Event()

        def work() -> None:
            while not stopped.is_set():
                try:
                    id, ids = waiting.get_nowait()
                except Empty:
                    return
                try:
                    finished.put(self._complete(id, ids, stopped))
                except Exception as error:  # raised again in the thread that waits for completions
                    finished.put(error)

        # The threads are daemons, so that Ctrl-C does not have to wait for completions under way.
        for _ in range(min(self.concurrency, len(prompt_ids))):
            Thread(target=work, daemon=True).start()
        try:
            for _ in prompt_ids:
                result = finished.get()
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            stopped.set()

    def _complete(self, id: str, prompt_ids: list[int], stopped: Event) -> Completion:
        settings, max_tokens = self.settings, self.settings.max_new_tokens
        if self.max_model_len is not None:
            max_tokens = min(max_tokens, self.max_model_len - len(prompt_ids))
        request = {
            "model": self.served_model,
            "prompt": prompt_ids,
            "max_tokens": max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": prompt_seed(settings.seed, id),
            # Otherwise the server takes these from the checkpoint's generation_config.json.
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        choice = self._post(id, request, stopped)
        if choice.get("token_ids") is None:
            raise ValueError(f"the server at {self.base_url} returns no token ids: it must be vLLM from 0.22 on")
        # The stop reason is the id of the last token where that is another one than the tokenizer's end of sequence.
        eos_token_ids = {self.tokenizer.eos_token_id, choice["stop_reason"]} - {None}
        return to_completion(
            id, choice["token_ids"], choice["finish_reason"] == "length", self.tokenizer, eos_token_ids
        )

    def _post(self, id: str, request: dict[str, Any], stopped: Event) -> dict[str, Any]:
        for pause in (*_PAUSES, None):
            try:
                answer = self.client.post("/v1/completions", request, timeout=_TIMEOUT)
                if 400 <= answer.status_code < 500 and answer.status_code not in _BUSY:
                    raise ValueError(f"the server at {self.base_url} refuses the prompt {id}: {answer.text[:500]}")
                answer.raise_for_status()
                choice: dict[str, Any] = answer.json()["choices"][0]
                if choice["finish_reason"] in ("stop", "length"):
                    return choice
                reason = f"it broke off a completion: {choice['finish_reason']}"  # servers that shut down do this
            except requests.RequestException as error:
                reason = str(error)
            if pause is None or stopped.is_set():
                break
            if self._warned.acquire(blocking=False):  # only the first prompt that fails
                logger.warning(f"the server at {self.base_url} fails; trying again for {sum(_PAUSES):.0f} s")
            stopped.wait(pause)
        raise ConnectionError(
            f"the server at {self.base_url} has failed {len(_PAUSES) + 1} times ({reason}): start it again and give "
            "the same command; what was generated is kept"
        )
