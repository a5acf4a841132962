"""
The seam to TRL: the only file of the core that uses its private names.

[`StagedTrainer`] turns the private methods of [`~trl.GRPOTrainer`] into stages with a public hook each. A subclass
overrides the hooks and never needs to know what TRL calls where. `tests/test_trl_internals.py` lists the names.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.extras.profiling import profiling_context
from trl.models import unwrap_model_for_generation
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import is_async_callable, nanstd

from .tool_calls import was_cut


__all__ = ["StagedTrainer", "is_async_callable", "nanstd"]

logger = get_logger(__name__)

OnForward = Callable[[torch.Tensor, torch.Tensor], None]


def _whole_characters(value: Any) -> Any:
    """
    Messages in which half a surrogate pair, which no tokenizer takes, is a replacement character.

    A policy writes such halves as escapes of JSON, in arguments and in names of tools, and tools repeat them.
    """
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    return [_whole_characters(item) for item in value] if isinstance(value, list) else value


class StagedTrainer(GRPOTrainer):
    """
    GRPO in stages: TRL fills a rollout, and hooks see it after each stage.

    The hooks, in the order in which TRL reaches them: `before_turn` and `sample_turn` for every assistant turn,
    `sampled` after the sampling, `rewarded` after the rewards, `batched` when the tensors for the loss are there.

    Attributes:
        rollout_type (`type`):
            Makes a rollout from rows of the data set, prompts and what TRL's generation returns, see
            [`~rest_trl.rollouts.Rollout`].
        rollout:
            The last rollout.
        shared_prompts ([`~rest_trl.shared_prompts.passes.SharedPrompts`], *optional*):
            Computes what rows of a micro-batch share once.
    """

    _tag_names = ["trl", "grpo", "rest"]
    _name = "ResT"
    _paper = {
        "title": "ResT: Reshaping Token-Level Policy Gradients for Tool-Use Large Language Models",
        "id": "2509.21826",
        "citation": """\
@inproceedings{lin2026rest,
    title        = {{ResT: Reshaping Token-Level Policy Gradients for Tool-Use Large Language Models}},
    author       = {Zihan Lin and Xiaohan Wang and Jie Cao and Jiajun Chai and Guojun Yin and Wei Lin and Ran He},
    year         = 2026,
    booktitle    = {International Conference on Learning Representations},
    eprint       = {arXiv:2509.21826},
}""",
    }

    args: Any
    model: Any
    environments: Any
    reward_funcs: list[Any]
    reward_processing_classes: list[Any]
    num_generations: int
    num_generations_eval: int
    rollout_type: type[Any]
    rollout: Any
    shared_prompts: Any = None
    _on_forward: OnForward | None = None
    _prefix_lengths: list[int] | None = None

    # Hooks

    def before_turn(self) -> None:
        """Called before an assistant turn is sampled."""

    def sample_turn(self, prompt_ids: list[list[int]], num_generations: int) -> tuple[Any, Any, list[int], int] | None:
        """
        Completions in the place of TRL's, see [`~rest_trl.rollouts.branches.Branches.sample`]; `None` for TRL's.
        """
        return None

    def sampled(self, rollout: Any) -> None:
        """Called when the completions of a rollout are sampled. It may replace rows in place."""

    def rewarded(self, rollout: Any) -> None:
        """Called when a rollout has its rewards."""

    def batched(self, rollout: Any, batch: dict[str, Any]) -> None:
        """Called when TRL has made the tensors of a rollout, which the loss reads. It changes them in place."""

    # Stages

    def roll_out(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The tensors of a rollout of some rows of the data set, each as often in a row as it has completions."""
        return self._generate_and_score_completions(inputs)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self._inputs = inputs
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.batched(self.rollout, batch)
        return batch

    def _generate(self, prompts: list) -> Any:
        self.rollout = self.sample(self._inputs, prompts)
        self.sampled(self.rollout)
        return self.rollout.generated

    def sample(self, inputs: list[dict[str, Any]], prompts: list) -> Any:
        """Completions of some rows of the data set, by TRL."""
        self._num_sampled, self._prefix_lengths = 0, None
        generated = super()._generate(prompts)
        end_ids = self.end_ids
        if all(was_cut(ids, end_ids) for ids in generated[1]):
            logger.warning_once(
                f"all completions of a rollout are cut off at max_completion_length={self.max_completion_length}, so "
                "none of them can be right: raise it"
            )
        # Rewards and logs encode the messages again.
        generated = (*generated[:3], _whole_characters(generated[3]), *generated[4:])
        return self.rollout_type(inputs, prompts, generated, self._num_sampled, self._prefix_lengths)

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, *args: Any, **kwargs: Any
    ) -> Any:
        self.before_turn()
        sampled = self.sample_turn(prompt_ids, num_generations)
        if sampled is not None:
            ids, logprobs, self._prefix_lengths, num_sampled = sampled
        else:
            inputs = prompt_ids, images, multimodal_fields, num_generations
            with self._prefilled(self.accelerator.unwrap_model(self.model_wrapped)):
                ids, logprobs = super()._generate_single_turn(*inputs, *args, **kwargs)
            num_sampled = sum(map(len, ids))
        self._num_sampled += num_sampled
        return ids, logprobs

    def _get_tool_suffix_ids(self, tool_messages: list[dict[str, Any]]) -> list[int]:
        return super()._get_tool_suffix_ids(_whole_characters(tool_messages))

    def complete(self, prompt_ids: list[list[int]], num_generations: int) -> tuple[Any, Any]:
        """One completion per prompt by TRL, of which `num_generations` in a row are equal."""
        return super()._generate_single_turn(prompt_ids, None, {}, num_generations)

    @contextmanager
    def generating(self) -> Iterator[Any]:
        """The policy ready to generate with transformers, gathered where it is sharded."""
        with (
            profiling_context(self, "transformers.generate"),
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
            self._prefilled(model),
        ):
            yield model

    def _prefilled(self, model: Any) -> Any:
        if self.shared_prompts is None or not self.shared_prompts.is_on or self.use_vllm:
            return nullcontext()
        from .shared_prompts.prefill import prefilled_generation

        return prefilled_generation(model)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        rollout = self.rollout
        if rollout.rewards is None:
            self.reward(rollout)
        self._pending_extra_logs.update(rollout.logged)
        rollout.environments = self.environments
        self.rewarded(rollout)
        return rollout.rewards

    def reward(self, rollout: Any) -> torch.Tensor:
        """Give a rollout the rewards of all processes, of shape `(N, K)`, and what the rewards log of each row."""
        columns = rollout.inputs, rollout.prompts, rollout.completions, rollout.completion_ids
        rollout.rewards = super()._calculate_rewards(*columns)
        rollout.logged = {name: list(values) for name, values in self._pending_extra_logs.items()}
        self._pending_extra_logs.clear()
        return rollout.rewards

    # The loss

    @contextmanager
    def after_forward(self, function: OnForward) -> Iterator[None]:
        """
        Within the context, `function` is called with log-probabilities and entropies of the loss's forward pass.

        TRL reads the advantages of a micro-batch after that pass, so `function` may still change them.
        """
        self._on_forward = function
        try:
            yield
        finally:
            self._on_forward = None

    def log_probs(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """Log-probabilities of the last tokens of rows, without gradient, in passes of the size of a micro-batch."""
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            size = self.args.per_device_train_batch_size
            rows = input_ids, attention_mask, num_tokens
            return self._get_per_token_logps_and_entropies(self.model, *rows, batch_size=size)[0]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **images: Any,
    ) -> tuple[torch.Tensor, Any, Any]:
        inputs = model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss
        separate_scores = super()._get_per_token_logps_and_entropies
        if self.shared_prompts is None or any(value is not None for value in images.values()):
            output = separate_scores(*inputs, **images)
        else:
            output = self.shared_prompts.scores(separate_scores, *inputs)
        if self._on_forward is not None and output[1] is not None:  # only the loss asks for entropies
            self._on_forward(output[0].detach(), output[1].detach())
        return output

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        buffered = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is buffered or self.shared_prompts is None:
            return inputs
        self._buffered_inputs = self.shared_prompts.regrouped(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    # What else is private

    @property
    def mode(self) -> str:
        """`"train"` or `"eval"`."""
        return "train" if self.model.training else "eval"

    @property
    def has_images(self) -> bool:
        """Whether the policy is a model of images and text."""
        return self._is_vlm

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, also that of a processor."""
        return self._tokenizer

    @property
    def end_ids(self) -> set[int]:
        """Tokens that end a completion; none with a `rollout_func`, which may leave them out."""
        return set() if self.rollout_func is not None else {*self.eos_token_ids, self._tokenizer.pad_token_id}

    @property
    def paper(self) -> dict[str, str]:
        """Title, id and citation of the paper."""
        return self._paper

    @property
    def environment_tools(self) -> dict[str | None, list[Callable[..., Any]]]:
        """Tools by the name of their environment; `None` where rows name none."""
        return {None: self.tools} if self.environment_factories is None else self._env_tools

    def log_value(self, name: str, value: float) -> None:
        """Log a value of the current training step with TRL's own metrics."""
        self._metrics["train"][name].append(value)

    def log_total(self, name: str, count: int) -> None:
        """Log the sum of the counts of all processes, as [`log_value`](StagedTrainer.log_value) does."""
        counts = self.accelerator.gather(torch.tensor([count], device=self.accelerator.device))
        self.log_value(name, counts.sum().item())

    def log_column(self, name: str, values: Sequence[Any]) -> None:
        """Add a column to TRL's table of completions, on all ranks at once."""
        logs: Any = self._logs
        logs["extra"][name].extend(gather_object(values))

    def timed(self, name: str) -> Any:
        """Context that logs the seconds spent in it with TRL's own times."""
        return profiling_context(self, name)

    def turn_into_reward(self, reward_func: Any) -> None:
        """Add a reward of weight 1, and take the method of the environments of its name from their tools."""
        method = reward_func.__name__
        if reward_func not in self.reward_funcs:
            self.reward_funcs.append(reward_func)
            self.reward_func_names.append(method)
            self.reward_processing_classes.append(None)
            self.reward_weights = torch.cat([self.reward_weights, torch.ones(1)])

        def without(tools: list[Any]) -> list[Any]:
            return [tool for tool in tools if not (inspect.ismethod(tool) and tool.__name__ == method)]

        self.tools = without(self.tools)
        self._env_tools = {name: without(tools) for name, tools in self._env_tools.items()}

    def forbid_tool(self, method: str) -> None:
        """Keep a method of the environments out of the tools that can be called in this rollout."""
        for tools in self._sync_tool_dicts if self.tools else []:
            tools.pop(method, None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # PEFT loads adapters in float32, but TRL trains those of a quantised model in bfloat16: keep their dtypes.
        dtypes = {name: param.dtype for name, param in self.model.named_parameters() if param.requires_grad}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, param in self.model.named_parameters():
            if name in dtypes:
                param.data = param.data.to(dtypes[name])
