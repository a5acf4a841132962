"""Completions from vLLM in this process."""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from .generation import GenerationSettings, prompt_seed, prompt_token_ids, to_completion
from .samples import Completion


_CHUNK = 256  # prompts at once; an interrupted run loses at most this many completions
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM accepts for max_lora_rank


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
            Path or Hub id of a LoRA adapter.
        engine_kwargs:
            Further arguments of `vllm.LLM`, such as `tensor_parallel_size` or `max_model_len`.

    Raises:
        ImportError: if vLLM cannot be imported.
        ValueError: if vLLM cannot run the adapter.
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
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise ImportError(
                f"the backend vllm needs vLLM ({error}): pip install rest-trl[vllm], or use a server or transformers"
            ) from error
        self.tokenizer = tokenizer
        self.settings = settings
        self.lora_request = None
        if adapter is not None:
            from peft import PeftConfig

            config: Any = PeftConfig.from_pretrained(adapter)
            if config.peft_type != "LORA":
                raise ValueError(f"vLLM runs no {config.peft_type} adapters ({adapter}): use the backend transformers")
            rank = max([config.r, *config.rank_pattern.values()])
            bound = next((bound for bound in _RANKS if rank <= bound), None)
            if bound is None:
                raise ValueError(
                    f"vLLM runs LoRA adapters up to rank {_RANKS[-1]}, and {adapter} has rank {rank}: use the backend "
                    "transformers"
                )
            engine_kwargs |= {"enable_lora": True, "max_lora_rank": bound}
            self.lora_request = LoRARequest("adapter", 1, adapter)
        self.engine = LLM(model_name, **engine_kwargs)

    def generate(self, prompts: Mapping[str, str]) -> Iterator[Completion]:
        """See [`~rest_trl.lab.evaluation.generation.Generator`]."""
        from vllm import SamplingParams

        settings, context = self.settings, self.engine.llm_engine.model_config.max_model_len
        prompt_ids = prompt_token_ids(prompts, self.tokenizer, context)
        ids = list(prompt_ids)
        for start in range(0, len(ids), _CHUNK):
            batch = ids[start : start + _CHUNK]
            sampling = [
                SamplingParams(
                    max_tokens=min(settings.max_new_tokens, context - len(prompt_ids[id])),
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    seed=prompt_seed(settings.seed, id),
                    skip_special_tokens=False,
                )
                for id in batch
            ]
            outputs = self.engine.generate(
                [{"prompt_token_ids": prompt_ids[id]} for id in batch],
                sampling,
                lora_request=self.lora_request,
                use_tqdm=False,
            )
            for id, output in zip(batch, outputs, strict=True):
                choice = output.outputs[0]
                eos_token_ids = {self.tokenizer.eos_token_id, choice.stop_reason} - {None}
                truncated = choice.finish_reason == "length"
                yield to_completion(id, list(choice.token_ids), truncated, self.tokenizer, eos_token_ids)
