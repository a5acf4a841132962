"""Completions from a model in this process: by transformers in batches, or by vLLM's offline engine."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase

from ...serving import INSTALL_VLLM
from .generation import Completion, GenerationSettings, prompt_seed, prompt_token_ids, to_completion


_CHUNK = 256  # prompts that vLLM gets at once; an interrupted run loses at most this many completions
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM accepts for max_lora_rank


class TransformersGenerator:
    """
    Runs a model with transformers. `model_kwargs` are further arguments of `from_pretrained`, such as `dtype`.

    All prompts of a batch are padded to the longest one. Where that prompt and `max_new_tokens` together exceed the
    model's context, completions of shorter prompts are cut off sooner than they would be alone.
    """

    def __init__(
        self,
        model_name: str,
        tokenizer: PreTrainedTokenizerBase,
        settings: GenerationSettings,
        adapter: str | None = None,
        batch_size: int = 32,
        **model_kwargs: Any,
    ) -> None:
        self.tokenizer, self.settings, self.batch_size = tokenizer, settings, batch_size
        model_kwargs.setdefault("device_map", "auto" if torch.cuda.is_available() else None)
        model: Any = AutoModelForCausalLM.from_pretrained(model_name, **model_kwargs)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        self.model: Any = model.eval()
        eos = model.generation_config.eos_token_id
        self.eos_token_ids: set[int] = {*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id} - {None}
        # Padding is masked, so any token will do.
        self.pad_token_id = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        # The checkpoint's own config may hold a repetition penalty, top_k and more, see `GenerationSettings`.
        model.generation_config = GenerationConfig(
            eos_token_id=sorted(self.eos_token_ids), pad_token_id=self.pad_token_id
        )

    @torch.no_grad()
    def generate(self, prompts: Mapping[str, str]) -> Iterator[Completion]:
        settings, config = self.settings, self.model.config.get_text_config()
        # Models without an embedding of positions, such as Bloom and Mamba, state no limit.
        context = config.max_position_embeddings if hasattr(config, "max_position_embeddings") else None
        prompt_ids = prompt_token_ids(prompts, self.tokenizer, context)
        ids = list(prompt_ids)
        sampling: dict[str, Any] = {"do_sample": False}
        if settings.temperature > 0:
            sampling = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        for start in range(0, len(ids), self.batch_size):
            batch = ids[start : start + self.batch_size]
            length = len(prompt_ids[batch[0]])
            padded = [[self.pad_token_id] * (length - len(prompt_ids[id])) + prompt_ids[id] for id in batch]
            room = settings.max_new_tokens if context is None else context - length
            mask = [[0] * (length - len(prompt_ids[id])) + [1] * len(prompt_ids[id]) for id in batch]
            with torch.random.fork_rng():
                # The first prompt's seed is no other batch's, so that a continued run repeats no random numbers.
                torch.manual_seed(prompt_seed(settings.seed, batch[0]))
                output = self.model.generate(
                    input_ids=torch.tensor(padded, device=self.model.device),
                    attention_mask=torch.tensor(mask, device=self.model.device),
                    max_new_tokens=min(settings.max_new_tokens, room),
                    **sampling,
                )
            for id, row in zip(batch, output[:, length:].tolist(), strict=True):
                end = next((i + 1 for i, token_id in enumerate(row) if token_id in self.eos_token_ids), None)
                yield to_completion(id, row[:end], end is None, self.tokenizer, self.eos_token_ids)


class VLLMGenerator:
    """
    Runs a model with vLLM's offline engine. `engine_kwargs` are further arguments of `vllm.LLM`.

    Raises an `ImportError` if vLLM cannot be imported, and a `ValueError` if vLLM cannot run the adapter.
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
                f"vLLM is not installed ({error}): {INSTALL_VLLM}, or use --backend server or transformers"
            ) from error
        self.tokenizer, self.settings = tokenizer, settings
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
