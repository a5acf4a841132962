"""GRPO with reshaped token-level advantages, stage by stage: generate, read, reward, credit, weigh, loss."""

from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad

from .config import CREDITS, ResTGRPOConfig
from .credit.assignment import assigned_advantages, find_segments, warn_without_parts
from .credit.scaling import wasted_groups
from .credit.turn_rewards import naming_function, naming_reward, turn_values
from .regions import CoefficientsFunc, Partitioner, RegionMetrics, RegionStatistics, to_regions
from .regions.rules import PRESETS, bind_rule, checked_coefficients, needs_forward_pass, rule_name
from .rollouts.rollout import Rollout, RolloutReader, policy_mask
from .runs.checkpoints import WholeCheckpoints
from .runs.preflight import PushAtTheEnd
from .tool_calls import detect_syntax, get_syntax, was_cut
from .trl_seam import StagedTrainer
from .wiring import bind, check_vllm_server, logs, named_arguments, prepare_policy, stages, take_environment_turns


class ResTGRPOTrainer(PushAtTheEnd, WholeCheckpoints, StagedTrainer):
    """
    Trainer for ResT, reshaped token-level policy gradients (https://huggingface.co/papers/2509.21826).

    It differs from [`~trl.GRPOTrainer`] in the advantages of tokens. Each is multiplied by the coefficient of its
    token's region (format, tool name, parameters, reasoning, response). As the coefficients are non-negative, this
    equals weighting the token's policy loss, for every `loss_type`. The KL term is not weighted. With
    `credit="region"`, the advantage itself counts only the part of the reward that was undecided when its token was
    sampled.

    Every completion is parsed once, from the sampled ids of the policy's own tokens; rewards and regions come from
    that parse. Each optimiser step uses the running entropies of the regions as the step before left them, so all its
    micro-batches and ranks share the same weights. The first step has no entropies yet and is plain GRPO.

    A reward function may return, in the place of a number, a list of one number per assistant turn, see
    [`~rest_trl.credit.turn_rewards.TurnReward`]. A method `turn_rewards` of an environment is not a tool but a reward
    of weight 1, see [`~rest_trl.credit.environments.EnvironmentTurns`].

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
        positional, kwargs:
            The other arguments of [`~trl.GRPOTrainer`], in the same order.

    Raises:
        ValueError: if the syntax of the policy is not known, its tokenizer has no byte table, the rewards cannot
            score the data set, or the settings, rule and model do not go together.
    """

    args: ResTGRPOConfig
    rollout_type = Rollout
    recipe: dict[str, Any] | None = None  # for the model card: what the training program was given

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: ResTGRPOConfig | None = None,
        *positional: Any,
        coefficients: CoefficientsFunc | None = None,
        **kwargs: Any,
    ) -> None:
        arguments = named_arguments(model, reward_funcs, args, positional, kwargs)
        args = arguments["args"]
        args.check_rule(coefficients or args.coefficients)
        self.rule = bind_rule(coefficients or args.coefficients)
        self.rule_name = rule_name(coefficients or args.coefficients)
        self.reader = RolloutReader()
        self._environment_turns = take_environment_turns(arguments, self.reader)
        check_vllm_server(arguments)
        super().__init__(**arguments)
        prepare_policy(self)
        self._is_preset = coefficients is None and self.rule_name in PRESETS
        syntax = get_syntax(args.tool_call_syntax or detect_syntax(self.tokenizer))
        self.partitioner = self.reader.partitioner = Partitioner(self.tokenizer, syntax)
        self.reader.end_ids = self.eos_token_ids if self.rollout_func is not None else ()
        self._branches, self._refilled, self._gold = stages(self)
        bind(self, self._environment_turns)
        self._is_first_rollout = True
        self._region_metrics = RegionMetrics(self.accelerator, self.tool_call_syntax)
        self.diagnosis, self._completion_log = logs(self)

    @property
    def region_statistics(self) -> RegionStatistics:
        """Running entropy and share per region."""
        # Looked up each time: a resumed `Trainer` may put a restored callback in the place of the first one.
        return next(cb for cb in self.callback_handler.callbacks if isinstance(cb, RegionStatistics))

    @property
    def tool_call_syntax(self) -> str:
        """Name of the wire syntax."""
        return self.partitioner.tool_call_syntax.name

    @property
    def progress(self) -> float:
        """Progress of the training in [0, 1]."""
        return min(1.0, self.state.global_step / self.state.max_steps) if self.state.max_steps > 0 else 0.0

    # Generate and read

    def before_turn(self) -> None:
        if self._environment_turns is not None:
            self.forbid_tool(self._environment_turns.__name__)
            self._environment_turns.end_turn(self.environments)

    def sample_turn(self, prompt_ids: list[list[int]], num_generations: int) -> tuple[Any, Any, list[int], int] | None:
        if self._branches is None or not self.model.training:
            return None
        return self._branches.sample(prompt_ids, num_generations)

    def sample(self, inputs: list[dict[str, Any]], prompts: list) -> Rollout:
        if self._environment_turns is not None:
            self._environment_turns.start()
        rollout: Rollout = super().sample(inputs, prompts)
        if rollout.prefix_lengths is not None:
            self._branches.log(rollout)
        return rollout

    def sampled(self, rollout: Rollout) -> None:
        self.read(rollout)
        if self._refilled is not None and self.model.training:
            self._log_wasted(self.reward(rollout))
            self._refilled.refill(rollout)
            self.read(rollout)

    def read(self, rollout: Rollout) -> None:
        with self.timed("partition"):
            self.reader.read(rollout)

    # Reward and credit

    def rewarded(self, rollout: Rollout) -> None:
        rewards: Any = rollout.rewards
        if self.model.training and self._refilled is None:
            self._log_wasted(rewards)
        rollout.segments = [[[] for _ in self.reward_funcs] for _ in rewards]
        if self.args.diagnose_steps is not None or self.args.credit != "completion":
            arguments = rollout.reward_arguments() | {"trainer_state": self.state}
            with naming_reward(self):
                rollout.segments = find_segments(self.reward_funcs, arguments)
            if self.args.credit != "completion" and self._is_first_rollout:
                warn_without_parts(self.reward_funcs, self.args.credit, rollout)
        self._is_first_rollout = False

    def reward(self, rollout: Rollout) -> torch.Tensor:
        """See [`StagedTrainer`]; an error of a reward function names it, see [`UserFunctionError`]."""
        with naming_reward(self):
            return super().reward(rollout)

    def _log_wasted(self, rewards: torch.Tensor) -> None:
        share = len(wasted_groups(rewards, self)) * self.num_generations / len(rewards)
        self.log_value("rest/groups/wasted", share)  # before any is replaced

    def batched(self, rollout: Rollout, batch: dict[str, Any]) -> None:
        mask = policy_mask(batch)
        batch["part_ids"] = rollout.padded_part_ids(mask)
        num_generations = self.num_generations if self.model.training else self.num_generations_eval
        advantages, sizes = batch["advantages"], (num_generations, mask.size(1))
        of_credit = partial(
            assigned_advantages, advantages, rollout, self.reward_funcs, self.reward_weights, self.args, *sizes
        )
        if self.args.credit != "completion" or rollout.prefix_lengths is not None:
            batch["advantages"] = of_credit()
        if self.model.training:
            self.log_total("rest/generated_tokens", rollout.num_generated)
            if self.diagnosis is not None:
                self.diagnosis.take(
                    batch, mask, {credit: of_credit(credit=credit) for credit in CREDITS}, num_generations
                )
            if self._gold is not None:
                self._gold.teach(rollout, batch)
        if self._completion_log is not None:
            known = None if needs_forward_pass(self.rule) else self._coefficients(batch)
            rewards = turn_values(self.reward_funcs, rollout.completion_ids)
            cut = [was_cut(ids, self.end_ids) for ids in rollout.completion_ids]
            self.log_column("regions", self._completion_log.add(batch, known, rewards, rollout.inputs, cut))

    # Weigh, and the loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """TRL's loss with the advantage of every token multiplied by its coefficient (paper, algorithm, loss)."""
        teaches = self._gold is not None and self.model.training
        batch = self._gold.with_rows(inputs) if teaches else dict(inputs)  # TRL may reuse the buffered one
        with self.after_forward(partial(self._weigh, inputs, batch)):
            loss = super().compute_loss(model, batch, return_outputs, num_items_in_batch)
        if self.model.training and self.accelerator.sync_gradients:
            for name, value in self._region_metrics.finish(self.region_statistics).items():
                self.log_value(name, value)
            self.log_value("rest/progress", self.progress)
            if self.shared_prompts is not None:
                self.log_total("rest/tokens_computed", self.shared_prompts.take_num_tokens())
        return loss

    def _weigh(
        self, inputs: dict[str, Any], batch: dict[str, Any], per_token_logps: torch.Tensor, entropies: torch.Tensor
    ) -> None:
        """Multiply the advantages of a micro-batch by the coefficients, which are 1 in the rows of gold calls."""
        num_rows, num_tokens = inputs["completion_ids"].shape
        logps, entropies = (values[:num_rows, :num_tokens] for values in (per_token_logps, entropies))
        coefficients = self._coefficients(inputs, per_token_logps=logps, entropies=entropies)
        own, all_advantages = (_per_token(each["advantages"]) for each in (inputs, batch))
        all_rows, all_tokens = batch["completion_ids"].shape
        beyond = 0, all_tokens - num_tokens, 0, all_rows - num_rows
        batch["advantages"] = all_advantages * pad(coefficients, beyond, value=1.0)
        if self.model.training:
            self._region_metrics.add(inputs["part_ids"], entropies, coefficients, own * coefficients)

    def _coefficients(self, batch: dict[str, Any], **of_forward_pass: torch.Tensor) -> torch.Tensor:
        region_entropies, region_shares = self.region_statistics.tensors(batch["part_ids"].device)
        mask = policy_mask(batch)
        arguments = {
            "completion_ids": batch["completion_ids"],
            "region_ids": to_regions(batch["part_ids"]),
            "part_ids": batch["part_ids"],
            "advantages": batch["advantages"],
            "region_entropies": region_entropies,
            "region_shares": region_shares,
            "progress": self.progress,
            "step": int(self.state.global_step // self.args.steps_per_rollout),
            "global_step": self.state.global_step,
            **of_forward_pass,
        }
        if self._is_preset:
            return self.rule(mask=mask, **arguments)
        with naming_function("rule of the coefficients", [self.rule], [self.rule_name]):
            return checked_coefficients(self.rule, mask, arguments)

    # Show

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's card with what the training has used and reached."""
        from .lab.display.card import write_model_card

        write_model_card(self, super().create_model_card, *args, **kwargs)


def _per_token(advantages: torch.Tensor) -> torch.Tensor:
    return advantages if advantages.dim() == 2 else advantages.unsqueeze(1)
