"""GRPO with reshaped token-level advantages."""

from functools import partial
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.extras.profiling import profiling_context

from .config import ResTGRPOConfig
from .display.arguments import is_hub_id
from .display.card import write_model_card
from .display.marks import mark_regions
from .regions.coefficients import entropy_coefficients
from .regions.partition import Partitioner, region_sums, to_regions
from .regions.rules import PRESETS, CoefficientsFunc, check, resolve
from .regions.statistics import RegionStatistics
from .serving.recovery import guard
from .serving.server import check_server
from .serving.weights import send_dequantized_weights
from .tool_calls import Part, Region, detect_syntax, get_syntax


logger = get_logger(__name__)

_UNPARSED_WARNING = 0.5  # share of completions; plain answers alone are rarely most of a tool-calling data set


class ResTGRPOTrainer(GRPOTrainer):
    """
    Trainer for ResT, reshaped token-level policy gradients (https://huggingface.co/papers/2509.21826).

    It differs from [`~trl.GRPOTrainer`] in one thing: the advantage of a token is multiplied by the coefficient of its
    region (format, tool name, parameters, reasoning, response). As the coefficients are non-negative, that equals
    weighting the token's policy loss, for every `loss_type`. The KL term is not weighted.

    Regions come from the sampled ids. Their entropies come from the forward pass of the loss; the running means that
    one optimiser step leaves behind are used in the next, so every micro-batch and rank of a step shares the same
    weights. The first step has no entropies yet and is plain GRPO.

    Args:
        model, reward_funcs:
            See [`~trl.GRPOTrainer`].
        args ([`ResTGRPOConfig`], *optional*):
            Configuration. By default a [`ResTGRPOConfig`] with the output directory `{model name}-ResT`.
        coefficients (`Callable`, *optional*):
            A coefficient function, see [`~rest_trl.regions.rules.resolve`]; takes the place of `args.coefficients`.
        kwargs:
            See [`~trl.GRPOTrainer`].
    """

    args: ResTGRPOConfig
    model: Any
    _logs: Any
    # Set by the training program: the arguments of the run that differ from their defaults, for the model card.
    recipe: dict[str, Any] | None = None
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

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: ResTGRPOConfig | None = None,
        *,
        coefficients: CoefficientsFunc | None = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = ResTGRPOConfig(f"{name.split('/')[-1]}-ResT")
        if not isinstance(args, ResTGRPOConfig):
            raise ValueError(
                f"ResTGRPOTrainer needs a ResTGRPOConfig as `args`, got {type(args).__name__}: it takes all "
                "arguments of GRPOConfig"
            )
        has_server = args.use_vllm and args.vllm_mode == "server"
        if has_server:
            check_server(model, args)
        super().__init__(model, reward_funcs, args=args, **kwargs)
        if has_server:
            send_dequantized_weights(self.vllm_generation)
            guard(self)
        tool_call_syntax = get_syntax(args.tool_call_syntax or detect_syntax(self._tokenizer))
        self._partitioner = Partitioner(self._tokenizer, tool_call_syntax)
        self._coefficients_func = self._bind(resolve(coefficients or args.coefficients))
        self._trust_coefficients = coefficients is None and args.coefficients in PRESETS
        self._step_sums: torch.Tensor | None = None
        self._warned_of_unparsed = False
        self.add_callback(RegionStatistics(args.entropy_decay))

    def _bind(self, coefficients_func: CoefficientsFunc) -> CoefficientsFunc:
        if coefficients_func is not entropy_coefficients:
            return coefficients_func
        args = self.args
        return partial(
            coefficients_func,
            surrogate=args.entropy_surrogate,
            minimum=args.coefficient_min,
            maximum=args.coefficient_max,
            format_slope=args.format_slope if args.curriculum else 0.0,
            parameters_slope=args.parameters_slope if args.curriculum else 0.0,
            reasoning_slope=args.reasoning_slope if args.curriculum else 0.0,
            parameter_name_scale=args.parameter_name_scale,
        )

    @property
    def region_statistics(self) -> RegionStatistics:
        """Running entropy and share per region."""
        # Looked up each time: a resumed `Trainer` may put a restored callback in the place of the first one.
        return next(cb for cb in self.callback_handler.callbacks if isinstance(cb, RegionStatistics))

    @property
    def tool_call_syntax(self) -> str:
        """Name of the wire syntax."""
        return self._partitioner.tool_call_syntax.name

    @property
    def progress(self) -> float:
        """Progress of the curriculum in [0, 1]."""
        horizon = self.args.curriculum_horizon or self.state.max_steps
        return min(1.0, self.state.global_step / horizon) if horizon > 0 else 0.0

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        with profiling_context(self, "partition"):
            output["part_ids"] = self._partitioner(output["completion_ids"], self._policy_mask(output))
        output["region_ids"] = to_regions(output["part_ids"])
        if self.log_completions:
            sampled = output["completion_ids"], output["completion_mask"], output["region_ids"]
            marked = mark_regions(*sampled, self._partitioner.token_bytes)
            self._logs["extra"]["regions"].extend(gather_object(marked))  # as TRL gathers the other columns
        return output

    @staticmethod
    def _policy_mask(inputs: dict[str, Any]) -> torch.Tensor:
        return inputs["completion_mask"] * inputs["tool_mask"] if "tool_mask" in inputs else inputs["completion_mask"]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        # A copy, because the buffered dict comes again with `num_iterations > 1`. The advantages come back, reshaped,
        # as soon as the forward pass has given the entropies.
        self._loss_inputs = dict(inputs)
        self._advantages = self._loss_inputs.pop("advantages")
        return super().compute_loss(model, self._loss_inputs, return_outputs, num_items_in_batch)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, Any, Any]:
        logps, entropies, aux_loss = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if entropies is not None:  # only the loss asks for them
            coefficients = self._coefficients(entropies.detach())
            advantages = self._advantages if self._advantages.dim() == 2 else self._advantages.unsqueeze(1)
            self._loss_inputs["advantages"] = advantages * coefficients
            if self.model.training:
                self._observe(entropies.detach(), coefficients)
        return logps, entropies, aux_loss

    def _coefficients(self, entropies: torch.Tensor) -> torch.Tensor:
        inputs, mask = self._loss_inputs, self._policy_mask(self._loss_inputs)
        region_entropies, region_shares = self.region_statistics.tensors(entropies.device)
        coefficients = self._coefficients_func(
            completion_ids=inputs["completion_ids"],
            mask=mask,
            region_ids=inputs["region_ids"],
            part_ids=inputs["part_ids"],
            entropies=entropies,
            advantages=self._advantages,
            region_entropies=region_entropies,
            region_shares=region_shares,
            progress=self.progress,
            step=self.state.global_step // self.args.steps_per_rollout,
        )
        return coefficients if self._trust_coefficients else check(coefficients, mask)

    def _observe(self, entropies: torch.Tensor, coefficients: torch.Tensor) -> None:
        """Sum up the micro-batch; at the end of the optimiser step reduce over ranks, update the means and log."""
        region_ids, part_ids = self._loss_inputs["region_ids"], self._loss_inputs["part_ids"]
        policy = (part_ids != Part.NONE).any(1)
        parsed = ((part_ids >= Part.TAG) | (part_ids == Part.REASONING)).any(1)
        sums = region_sums(region_ids, entropies, coefficients)
        completions = torch.stack([policy.sum(), (policy & ~parsed).sum()]).float()
        sums = torch.cat([sums.flatten(), completions])
        self._step_sums = sums if self._step_sums is None else self._step_sums + sums
        if not self.accelerator.sync_gradients:
            return
        totals = self.accelerator.reduce(self._step_sums, reduction="sum").cpu()
        self._step_sums = None
        counts, entropy_sums, coefficient_sums = totals[:-2].view(3, len(Region))
        self.region_statistics.update(counts, entropy_sums)
        self._log_regions(counts, coefficient_sums / counts.clamp(min=1))
        self._log_unparsed((totals[-1] / totals[-2].clamp(min=1)).item())

    def _log_regions(self, counts: torch.Tensor, mean_coefficients: torch.Tensor) -> None:
        metrics = self._metrics["train"]
        metrics["rest/progress"].append(self.progress)
        for region in Region:
            if region is Region.NONE:
                continue
            name = region.name.lower()
            metrics[f"rest/share/{name}"].append((counts[region] / counts.sum().clamp(min=1)).item())
            if counts[region] > 0:
                metrics[f"rest/entropy/{name}"].append(self.region_statistics.entropies[region])
                metrics[f"rest/coefficient/{name}"].append(mean_coefficients[region].item())

    def _log_unparsed(self, share: float) -> None:
        self._metrics["train"]["rest/unparsed"].append(share)
        if share > _UNPARSED_WARNING and not self._warned_of_unparsed:
            self._warned_of_unparsed = True
            logger.warning(
                f"{share:.0%} of the completions of step {self.state.global_step} hold neither a call nor reasoning "
                f"in the syntax {self._partitioner.tool_call_syntax.name!r}, so all their tokens get the same "
                "coefficient. If the policy writes another syntax, set tool_call_syntax to it; rest/unparsed goes on "
                "to log the share"
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # PEFT loads adapters in float32, TRL trains those of a quantised model in bfloat16: go on in the same.
        dtypes = {name: param.dtype for name, param in self.model.named_parameters() if param.requires_grad}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, param in self.model.named_parameters():
            if name in dtypes:
                param.data = param.data.to(dtypes[name])

    def create_model_card(  # type: ignore[override]  # as TRL has it
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        # A checkpoint's card gets no data set's name from `Trainer`.
        dataset_name = dataset_name or (self.recipe or {}).get("dataset_name")
        super().create_model_card(model_name, dataset_name if is_hub_id(dataset_name) else None, tags)
        if self.is_world_process_zero():
            write_model_card(self, model_name, dataset_name)
