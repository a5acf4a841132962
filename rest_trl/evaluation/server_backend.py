"""Completions from a running vLLM server, many at a time, over its OpenAI API."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import httpx
from accelerate.logging import get_logger
from transformers import PreTrainedTokenizerBase

from .generation import GenerationSettings, prompt_token_ids, to_completion
from .samples import Completion


logger = get_logger(__name__)

_ATTEMPTS = 5  # with pauses of 1, 2, 4 and 8 seconds
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)  # seconds; a long completion in a full queue takes minutes


class ServerGenerator:
    """
    Asks a vLLM server.

    Prompts are sent as token ids, and token ids come back: nothing is tokenised by two tokenizers.

    Args:
        base_url (`str`):
            Address of the server, such as `http://localhost:8000`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        settings ([`GenerationSettings`]):
            How to sample.
        served_model (`str`, *optional*):
            Name under which the server has the model or the adapter; may be left out if it has only one.
        concurrency (`int`, *optional*, defaults to `64`):
            Prompts under way at once.

    Raises:
        ConnectionError: if there is no vLLM server at that address.
        ValueError: if it does not have the model.
    """

    def __init__(
        self,
        base_url: str,
        tokenizer: PreTrainedTokenizerBase,
        settings: GenerationSettings,
        served_model: str | None = None,
        concurrency: int = 64,
    ) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.tokenizer = tokenizer
        self.settings = settings
        self.concurrency = concurrency
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = httpx.Client(base_url=self.base_url, timeout=_TIMEOUT, limits=limits)
        try:
            models = self._client.get("/v1/models").raise_for_status().json()["data"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise ConnectionError(
                f"no vLLM server answers at {self.base_url} ({error}): start one with `vllm serve MODEL`, or give its "
                "address"
            ) from error
        served = {model["id"]: model for model in models}
        if served_model is None and len(served) == 1:
            served_model = next(iter(served))
        if served_model not in served:
            raise ValueError(
                f"the server at {self.base_url} has {', '.join(served)}, not {served_model}: give the name of one as "
                "served_model"
            )
        self.served_model = served_model
        # Adapters do not state it; then it is that of their base model.
        self.max_model_len: int | None = next(
            (model["max_model_len"] for model in (served[served_model], *models) if model.get("max_model_len")), None
        )

    def generate(self, prompts: Mapping[str, str]) -> Iterator[Completion]:
        """See [`~rest_trl.evaluation.generation.Generator`]."""
        prompt_ids = prompt_token_ids(prompts, self.tokenizer, self.max_model_len)
        with ThreadPoolExecutor(self.concurrency) as executor:
            futures = [executor.submit(self._complete, id, ids) for id, ids in prompt_ids.items()]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:  # also if the run is broken off: what has not been sent shall not be waited for
                executor.shutdown(wait=False, cancel_futures=True)

    def _complete(self, id: str, prompt_ids: list[int]) -> Completion:
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
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        choice = self._post(request)["choices"][0]
        eos_token_ids = {self.tokenizer.eos_token_id}
        completion_ids: list[int] = choice["token_ids"]
        if choice.get("stop_reason") is not None:  # a token that ends completions beside the tokenizer's own
            eos_token_ids.add(choice["stop_reason"])
        return to_completion(id, completion_ids, choice["finish_reason"] == "length", self.tokenizer, eos_token_ids)

    def _post(self, request: dict[str, Any]) -> dict[str, Any]:
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self._client.post("/v1/completions", json=request)
                if answer.is_client_error:
                    raise ValueError(f"the server at {self.base_url} refuses a prompt: {answer.text[:500]}")
                return answer.raise_for_status().json()
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                if attempt == _ATTEMPTS:
                    raise ConnectionError(
                        f"the server at {self.base_url} has failed {attempt} times ({reason}): start it again and "
                        "give the same command; what was generated is kept"
                    ) from error
                pause = 2 ** (attempt - 1)
                logger.warning(f"{self.base_url}: {reason}; trying again in {pause} s")
                time.sleep(pause)
