"""Completions from vLLM in this process."""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from .generation import GenerationSettings, prompt_token_ids, to_completion
from .samples import Completion


_CHUNK = 256  # prompts: what an interrupted run loses at most


class VLLMGenerator:
    """
    Runs a model with vLLM's offline engine.

    Args:
        model_name (`str`):
            Path or Hub id.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        settings ([`GenerationSettings`]):
            How to sample.
        adapter (`str`, *optional*):
            Path of a LoRA adapter.
        engine_kwargs:
            Further arguments of `vllm.LLM`, such as `tensor_parallel_size` or `max_model_len`.

    Raises:
        ImportError: if vLLM cannot be imported.
    """

    def __init__(
        self,
        model_name: str,
        tokenizer: PreTrainedTokenizerBase,
        settings: GenerationSettings,
        adapter: str | None = None,
        **engine_kwargs: Any,
    ) -> None:
        try:
            from vllm import LLM, SamplingParams
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise ImportError(
                f"the backend vllm needs vLLM ({error}): pip install rest-trl[vllm], or use a server or transformers"
            ) from error
        self.tokenizer = tokenizer
        self.engine = LLM(model_name, enable_lora=adapter is not None, **engine_kwargs)
        self.lora_request = None if adapter is None else LoRARequest("adapter", 1, adapter)
        self._sampling = lambda room: SamplingParams(
            max_tokens=min(settings.max_new_tokens, room),
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=settings.seed,
            skip_special_tokens=False,
        )

    def generate(self, prompts: Mapping[str, str]) -> Iterator[Completion]:
        """See [`~rest_trl.evaluation.generation.Generator`]."""
        context = self.engine.llm_engine.model_config.max_model_len
        prompt_ids = prompt_token_ids(prompts, self.tokenizer, context)
        ids = list(prompt_ids)
        for start in range(0, len(ids), _CHUNK):
            batch = ids[start : start + _CHUNK]
            outputs = self.engine.generate(
                [{"prompt_token_ids": prompt_ids[id]} for id in batch],
                [self._sampling(context - len(prompt_ids[id])) for id in batch],
                lora_request=self.lora_request,
                use_tqdm=False,
            )
            for id, output in zip(batch, outputs, strict=True):
                choice = output.outputs[0]
                eos_token_ids = {self.tokenizer.eos_token_id, choice.stop_reason} - {None}
                completion_ids = list(choice.token_ids)
                yield to_completion(
                    id, completion_ids, choice.finish_reason == "length", self.tokenizer, eos_token_ids
                )
