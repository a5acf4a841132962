"""GRPO with reshaped token-level advantages."""

from typing import Any

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer
from trl.extras.profiling import profiling_context

from .config import CREDITS, ResTGRPOConfig
from .credit.assignment import CreditAssignment
from .credit.turn_rewards import turn_values
from .lab.diagnose.callback import DiagnoseCallback
from .lab.display.arguments import is_hub_id
from .lab.display.card import write_model_card
from .lab.display.marks import mark_regions
from .lab.display.token_log import TokenLog
from .lab.display.writing import warned_if_failing
from .regions import PRESETS, CoefficientsFunc, Partitioner, RegionStatistics, to_regions
from .regions.metrics import RegionMetrics
from .regions.rollout import RolloutReader
from .regions.rules import bind_rule, checked_coefficients, needs_forward_pass
from .rewards import REWARDS, Binding, bind_rewards
from .rollouts.branching import BranchedRollouts
from .rollouts.refill import RefilledGroups
from .rollouts.turn_rewards import TurnRewards
from .runs.checkpoints import WholeCheckpoints
from .serving.packing import keep_unpacked
from .serving.recovery import guard
from .serving.server import check_server
from .tool_calls import detect_syntax, get_syntax


class ResTGRPOTrainer(TurnRewards, WholeCheckpoints, BranchedRollouts, RefilledGroups, GRPOTrainer):
    """
    Trainer for ResT, reshaped token-level policy gradients (https://huggingface.co/papers/2509.21826).

    It differs from [`~trl.GRPOTrainer`] in the advantages of tokens. Each is multiplied by the coefficient of its
    token's region (format, tool name, parameters, reasoning, response). As the coefficients are non-negative, this
    equals weighting the token's policy loss, for every `loss_type`. The KL term is not weighted. With
    `credit="region"`, the advantage itself counts only the part of the reward that was undecided when its token was
    sampled.

    Every completion is parsed once, from the sampled ids of the policy's own tokens; rewards and regions come from
    that parse. The entropies of the regions come from the forward pass of the loss. Each optimiser step uses the
    running means as the step before left them, so all its micro-batches and ranks share the same weights. The first
    step has no entropies yet and is plain GRPO.

    Args:
        model:
            See [`~trl.GRPOTrainer`].
        reward_funcs (*optional*):
            See [`~trl.GRPOTrainer`]. By default the paper's, [`~rest_trl.rewards.LayoutReward`] and
            [`~rest_trl.rewards.ToolCallReward`], and none with an `environment_factory`. The trainer passes its
            settings to the rewards of this package.
        args ([`ResTGRPOConfig`], *optional*):
            Configuration. By default a [`ResTGRPOConfig`] with the output directory `{model name}-ResT`.
        coefficients ([`~rest_trl.regions.CoefficientsFunc`], *optional*):
            A rule; takes the place of `args.coefficients`.
        kwargs:
            See [`~trl.GRPOTrainer`].

    Raises:
        ValueError: if `args` is no [`ResTGRPOConfig`], the syntax of the policy is not known, its tokenizer has no
            byte table, the rewards cannot score the data set, or the settings, rule and model do not go together.
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
        if reward_funcs is None and kwargs.get("environment_factory") is None:
            reward_funcs = [reward() for reward in REWARDS.values()]
        has_server = args.use_vllm and args.vllm_mode == "server"
        if has_server:
            check_server(model, args, bool(kwargs.get("tools") or kwargs.get("environment_factory")))
        super().__init__(model, reward_funcs, args=args, **kwargs)
        keep_unpacked(self.model)
        if has_server:
            guard(self)
        self._partitioner = Partitioner(
            self._tokenizer, get_syntax(args.tool_call_syntax or detect_syntax(self._tokenizer))
        )
        self._coefficients_func = bind_rule(coefficients or args.coefficients, args)
        self._set_up_branches(self._partitioner)
        self._set_up_refill()
        self._is_preset = coefficients is None and args.coefficients in PRESETS
        self._needs_forward_pass = not self._is_preset and needs_forward_pass(self._coefficients_func)
        if self._needs_forward_pass and self._is_vlm:
            raise ValueError(
                "the rule of the coefficients has a parameter `entropies` or `per_token_logps`, which costs a forward "
                "pass of its own, and for a model of images that pass is not supported: use `region_entropies` instead"
            )
        self._rollout = RolloutReader(self._partitioner, self.eos_token_ids if self.rollout_func is not None else ())
        self._bind_rewards()
        self._read_turn_rewards()
        diagnoses = args.diagnose_steps is not None
        needs_credit = diagnoses or args.credit != "completion" or args.branch is not None
        self._credit = CreditAssignment(args, self.reward_funcs, diagnoses) if needs_credit else None
        self._region_metrics = RegionMetrics(self.accelerator, self.tool_call_syntax)
        self.add_callback(RegionStatistics(args.entropy_decay))
        self.diagnosis = DiagnoseCallback(self) if diagnoses else None
        if self.diagnosis is not None:
            self.add_callback(self.diagnosis)
        if self.log_completions:
            self._token_log = TokenLog(args)
            self.add_callback(self._token_log)

    def _bind_rewards(self) -> None:
        """Bind the rewards of this package to the trainer's settings, and refuse data that they cannot score."""
        evaluation = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        datasets = [dataset for dataset in (self.train_dataset, *evaluation.values()) if dataset is not None]
        tools = {None: self.tools} if self.environment_factories is None else self._env_tools
        settings = self.args.reward_schedule, self.args.steps_per_rollout
        binding = Binding(self.tool_call_syntax, self._rollout.turns, *settings, tools, self.rollout_func is not None)
        self.reward_funcs = bind_rewards(self.reward_funcs, datasets, binding)

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

    def _generate(self, prompts: list) -> Any:
        output = super()._generate(prompts)
        with profiling_context(self, "partition"):
            self._rollout.read(*output[1:3])  # completion_ids and tool_mask
        return output

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self._credit is not None:
            columns = [name for name in inputs[0] if name not in ("prompt", "completion", "completion_ids")]
            arguments: dict[str, Any] = {name: [row[name] for row in inputs] for name in columns}
            arguments |= {"prompts": prompts, "completions": completions, "completion_ids": completion_ids_list}
            if self.environments is not None:
                arguments["environments"] = self.environments
            self._credit.take(rewards, self.reward_funcs, arguments, self.state)
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        output["part_ids"] = self._rollout.part_ids(self._policy_mask(output))
        if self._credit is not None:
            num_generations: Any = self.num_generations if self.model.training else self.num_generations_eval
            sizes = num_generations, output["part_ids"].size(1)
            rollout = output["advantages"], self.reward_weights, *sizes, self.prefix_lengths
            if self.args.credit != "completion" or self.prefix_lengths is not None:
                output["advantages"] = self._credit.advantages(*rollout)
            if self.diagnosis is not None and self.model.training:
                by_credit = {credit: self._credit.advantages(*rollout, credit) for credit in CREDITS}
                self.diagnosis.take(output, self._policy_mask(output), by_credit, num_generations)
        if self.log_completions:
            sampled = output["completion_ids"], output["completion_mask"], to_regions(output["part_ids"])
            marked = mark_regions(*sampled, self._partitioner.token_bytes)
            self._logs["extra"]["regions"].extend(gather_object(marked))  # as TRL gathers the other columns
            coefficients = None if self._needs_forward_pass else self._coefficients(self.model, output)
            ids = [ids[mask.bool()].tolist() for ids, mask in zip(*sampled[:2], strict=True)]
            turn_rewards = turn_values(self.reward_funcs, ids)
            self._token_log.add(*sampled[:2], output["part_ids"], coefficients, output["advantages"], turn_rewards)
        return output

    @staticmethod
    def _policy_mask(inputs: dict[str, Any]) -> torch.Tensor:
        return inputs["completion_mask"] * inputs["tool_mask"] if "tool_mask" in inputs else inputs["completion_mask"]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """TRL's loss with the advantage of every token multiplied by its coefficient (paper, algorithm, loss)."""
        coefficients = self._coefficients(model, inputs)
        advantages = inputs["advantages"] if inputs["advantages"].dim() == 2 else inputs["advantages"].unsqueeze(1)
        # A new dict, because TRL reuses the buffered one if `num_iterations > 1`.
        reshaped = {**inputs, "advantages": advantages * coefficients}
        loss = super().compute_loss(model, reshaped, return_outputs, num_items_in_batch)
        if self.model.training:
            self._observe(inputs["part_ids"], coefficients, reshaped["advantages"])
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, Any, Any]:
        output = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if output[1] is not None:  # only the loss asks for entropies
            self._entropies = output[1].detach()
        return output

    def _coefficients(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        region_entropies, region_shares = self.region_statistics.tensors(inputs["part_ids"].device)
        mask = self._policy_mask(inputs)
        arguments = {
            "completion_ids": inputs["completion_ids"],
            "region_ids": to_regions(inputs["part_ids"]),
            "part_ids": inputs["part_ids"],
            "advantages": inputs["advantages"],
            "region_entropies": region_entropies,
            "region_shares": region_shares,
            "progress": self.progress,
            "step": self.state.global_step // self.args.steps_per_rollout,
        }
        if self._is_preset:
            return self._coefficients_func(mask=mask, **arguments)
        if self._needs_forward_pass:
            arguments |= self._forward_pass(model, inputs)
        return checked_coefficients(self._coefficients_func, mask, arguments)

    def _forward_pass(self, model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Results of the loss's forward pass, from an extra pass before it with the same random numbers."""
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            per_token_logps, entropies, _ = self._get_per_token_logps_and_entropies(
                model,
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                inputs["completion_ids"].size(1),
                compute_entropy=True,
            )
        return {"per_token_logps": per_token_logps, "entropies": entropies}

    def _observe(self, part_ids: torch.Tensor, coefficients: torch.Tensor, advantages: torch.Tensor) -> None:
        """Add the micro-batch; at the end of the optimiser step, update the running means and log."""
        self._region_metrics.add(part_ids, self._entropies, coefficients, advantages)
        if self.accelerator.sync_gradients:
            metrics = self._metrics["train"]
            for name, value in self._region_metrics.finish(self.region_statistics).items():
                metrics[name].append(value)
            metrics["rest/progress"].append(self.progress)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # PEFT loads adapters in float32, but TRL trains those of a quantised model in bfloat16: keep their dtypes.
        dtypes = {name: param.dtype for name, param in self.model.named_parameters() if param.requires_grad}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, param in self.model.named_parameters():
            if name in dtypes:
                param.data = param.data.to(dtypes[name])

    def create_model_card(  # type: ignore[override]  # as TRL has it
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        # `Trainer` gives no name of a data set for the card of a checkpoint.
        dataset_name = dataset_name or (self.recipe or {}).get("dataset_name")
        with warned_if_failing("The model card"):
            super().create_model_card(model_name, dataset_name if is_hub_id(dataset_name) else None, tags)
            if self.is_world_process_zero():
                write_model_card(self, model_name, dataset_name)
