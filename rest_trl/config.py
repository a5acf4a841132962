"""Configuration of [`ResTGRPOTrainer`]."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from trl import GRPOConfig

from .regions.rules import PRESETS, CoefficientsFunc, bind_rule, rule_name
from .rewards.schedules import SCHEDULES, check_schedule
from .runs.preflight import check_mappings, check_numbers
from .spelling import did_you_mean
from .tool_calls import get_syntax


CREDITS = ("completion", "turn", "region", "local")
CREDIT_BASELINES = ("group", "leave_one_out")

# With one importance ratio per sequence, these losses multiply all tokens of a sequence by the same factor, so
# coefficients whose mean is 1 cancel.
_SHARED_RATIO_LOSSES = ("bnpo", "dapo", "dr_grpo", "grpo", "luspo", "sapo")
SHARING = ("auto", "true", "false")
# TRL itself checks the first three only after the first rollout.
_CHOICES = {
    "loss_type": (*_SHARED_RATIO_LOSSES, "cispo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none"),
    "credit": CREDITS,
    "credit_baseline": (None, *CREDIT_BASELINES),
    "share_prompts": SHARING,
}


@dataclass
class ResTGRPOConfig(GRPOConfig):
    r"""
    Configuration class for the [`ResTGRPOTrainer`].

    Only the arguments that [`~trl.GRPOConfig`] lacks are listed. `loss_type` defaults to the paper's `"grpo"`, which
    is not TRL's default; `beta` is 0 as in TRL and the paper.

    `top_entropy_quantile` masks tokens after the coefficients are normalised, so their mean is 1 over all tokens of
    the policy, not over those that are kept. With `loss_type="vespo"` the weight of a completion depends on the sign
    of the advantage, which non-negative coefficients keep; a coefficient of 0 removes the token's loss.

    Args:
        tool_call_syntax (`str`, *optional*):
            Wire syntax of the policy's tool calls, see [`~rest_trl.tool_calls.get_syntax`]. By default that of the
            tokenizer's chat template, see [`~rest_trl.tool_calls.detect_syntax`]; set it where the prompts ask for
            another one, as ToolRL's do (`"rlla"`).
        coefficients (`str` or `dict[str, Any]`, *optional*, defaults to `"entropy"`):
            Rule: `"entropy"` (the paper), `"released"` (the authors' code), `"uniform"` (GRPO), or the dotted path of
            a function, see [`~rest_trl.regions.CoefficientsFunc`]. A mapping names the `rule` and its arguments, such
            as `{"rule": "entropy", "maximum": 1.5}`, see [`~rest_trl.regions.entropy_coefficients`].
        entropy_decay (`float`, *optional*, defaults to `0.9`):
            Weight of the past in the running mean of the region entropies, per optimiser step.
        reward_schedule (`str`, *optional*, defaults to `"horizon"`):
            How the bounds of the rule rewards move with the training, see [`~rest_trl.rewards.reward_bounds`]:
            `"horizon"` (the paper, over the whole run), `"released"` (the authors' code, 150 rollouts) or `"static"`.
        credit (`str`, *optional*, defaults to `"completion"`):
            What a token's advantage is made of, see [`~rest_trl.credit.credited_advantages`]: `"completion"` (GRPO and
            the paper: the whole reward), `"turn"` (what the token's turn and later ones earn, for rewards that are
            lists of one number per assistant turn, see [`~rest_trl.credit.turns`]), `"region"` (what is undecided when
            the token is sampled, for such lists and for rewards that expose their parts), or `"local"` (the part that
            its own segment decides; biased, but of lower variance).
        credit_baseline (`str`, *optional*):
            Baseline of `credit`: `"group"` includes the completion itself, as in GRPO; `"leave_one_out"` does not. By
            default `"leave_one_out"` for `credit="turn"`, because few completions may reach a turn, else `"group"`.
            `credit="completion"` has one with `branch_size` only, and otherwise GRPO's.
        turn_discount (`float`, *optional*, defaults to `1.0`):
            Discount of later turns: in the credit of a turn, the reward of the turn `n` turns later is multiplied by
            `turn_discount ** n`. Below 1 the credit is no longer that of the sum of the rewards.
        branch_size (`int`, *optional*):
            Samples one reasoning for every `branch_size` completions, and for each of them only what follows it, see
            [`~rest_trl.credit.branched_advantages`]; `num_generations` is a multiple of it. By default, and always in
            evaluations, every completion is sampled whole.
        refill_groups (`int`, *optional*, defaults to `0`):
            How many more groups, of fresh prompts, a rollout may sample to replace groups whose completions have
            equal rewards, see `rest_trl.rollouts.refill`.
        share_prompts (`str`, *optional*, defaults to `"auto"`):
            Whether to compute tokens that rows of a micro-batch share (system prompts, prompts, reasonings of
            branches) once, in the loss and in sampling with transformers. `"auto"` computes each row by itself where
            that is not possible and logs why; `"true"` refuses to; `"false"` always does, to the bit as TRL.
        gold_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the likelihood of the gold call after the sampled reasonings, see `rest_trl.gold.rows`. At 0, the
            reward alone teaches.
        gold_variant (`str`, *optional*):
            Dotted path of a subclass of [`~rest_trl.gold.GoldTeacher`], for ablations.
        diagnose_steps (`int`, *optional*):
            Optimiser steps between diagnoses of the gradients, see
            [`~rest_trl.lab.diagnose.callback.DiagnoseCallback`]. Each diagnosis costs about 20 backward passes over
            the rollout. By default none is made.
    """

    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, "coefficients"]

    loss_type: str = field(
        default="grpo", metadata={"help": "Loss, see GRPOConfig. The paper averages over each completion: grpo."}
    )
    tool_call_syntax: str | None = field(
        default=None,
        metadata={"help": "Wire syntax of the policy's tool calls. Default: that of the tokenizer's chat template."},
    )
    coefficients: dict[str, Any] | str | None = field(
        default="entropy",
        metadata={
            "help": "Rule: entropy (the paper), released (the authors' code), uniform (GRPO), a dotted path, or a "
            'mapping with its arguments, such as {"rule": "entropy", "maximum": 1.5}.'
        },
    )
    entropy_decay: float = field(
        default=0.9, metadata={"help": "Weight of the past in the running region entropies, per optimiser step."}
    )
    reward_schedule: str = field(
        default="horizon",
        metadata={"help": "How the bounds of the rule rewards move with the training.", "choices": list(SCHEDULES)},
    )
    credit: str = field(
        default="completion",
        metadata={
            "help": "What a token is credited with: completion (the whole reward), turn (its turn and later ones), "
            "region (what is undecided), local.",
            "choices": list(CREDITS),
        },
    )
    credit_baseline: str | None = field(
        default=None,
        metadata={
            "help": "Baseline of credit: group, or leave_one_out. Default: leave_one_out for turn, group for others.",
            "choices": list(CREDIT_BASELINES),
        },
    )
    turn_discount: float = field(
        default=1.0, metadata={"help": "Factor on the reward of a turn per turn that it lies ahead of another."}
    )
    branch_size: int | None = field(
        default=None,
        metadata={"help": "Completions that share one reasoning, which is sampled once. Default: none share it."},
    )
    refill_groups: int = field(
        default=0, metadata={"help": "Groups that a rollout may sample in the place of groups of equal reward."}
    )
    share_prompts: str = field(
        default="auto",
        metadata={
            "help": "Compute what rows of a micro-batch share once: auto (where possible), true (or refuse), false.",
            "choices": list(SHARING),
        },
    )
    gold_weight: float = field(
        default=0.0, metadata={"help": "Weight of the likelihood of the gold call after each sampled reasoning."}
    )
    gold_variant: str | None = field(
        default=None, metadata={"help": "Dotted path of a subclass of rest_trl.gold.GoldTeacher, for ablations."}
    )
    diagnose_steps: int | None = field(
        default=None, metadata={"help": "Steps between diagnoses of the gradients. Default: none, at no cost."}
    )

    @property
    def steps_per_rollout(self) -> Fraction:
        """Optimiser steps per rollout, less than 1 where a step has several: schedules count rollouts."""
        micro_steps = (self.steps_per_generation or self.gradient_accumulation_steps) * self.num_iterations
        return Fraction(micro_steps, self.gradient_accumulation_steps)

    @property
    def leaves_one_out(self) -> bool:
        """Whether the baseline of `credit` leaves out the completion itself."""
        if self.credit_baseline is None:
            return self.credit == "turn"
        return self.credit_baseline == "leave_one_out"

    def __post_init__(self) -> None:
        check_numbers(self)
        if isinstance(self.share_prompts, bool):  # what YAML makes of true and false
            self.share_prompts = str(self.share_prompts).lower()
        super().__post_init__()
        check_mappings(self)
        for name, choices in _CHOICES.items():
            if vars(self)[name] not in choices:
                named = ", ".join(str(choice) for choice in choices if choice is not None)
                hint = did_you_mean(vars(self)[name], filter(None, choices))
                raise ValueError(f"unknown {name}={vars(self)[name]!r}: {hint}choose one of {named}")
        if self.tool_call_syntax is not None:
            get_syntax(self.tool_call_syntax)
        bind_rule(self.coefficients)
        check_schedule(self.reward_schedule)
        # Comparisons are written so that NaN fails them.
        if not 0 <= self.entropy_decay < 1:
            raise ValueError(f"entropy_decay must be in [0, 1), got {self.entropy_decay}: 0 keeps only the last step")
        if self.diagnose_steps is not None and self.diagnose_steps <= 0:
            raise ValueError(f"diagnose_steps must be positive, got {self.diagnose_steps}: leave it out for none")
        if self.refill_groups < 0:
            raise ValueError(f"refill_groups must not be negative, got {self.refill_groups}: 0 keeps wasted groups")
        self._check_branches()
        self._check_gold()
        self._check_credit()

    def _check_branches(self) -> None:
        if self.branch_size is None:
            return
        count, size = self.num_generations or 0, self.branch_size
        if not 2 <= size < count or count % size:
            raise ValueError(
                f"num_generations={count} is not a multiple of branch_size={size} with at least two branches of at "
                "least two completions: set num_generations to 2 * branch_size or more"
            )
        per_device, per_rollout = self.per_device_train_batch_size, self.steps_per_generation or 1
        if per_device * per_rollout % size:
            raise ValueError(
                f"a branch of branch_size={size} would lie on two processes, because each samples "
                f"per_device_train_batch_size={per_device} x steps_per_generation={per_rollout} completions: make "
                "that a multiple of branch_size"
            )

    def _check_gold(self) -> None:
        if not 0 <= self.gold_weight < math.inf:
            raise ValueError(f"gold_weight must not be negative, got {self.gold_weight}: 0 leaves the gold call out")
        if self.gold_variant is not None and not self.gold_weight:
            raise ValueError(f"gold_variant={self.gold_variant!r} has no effect with gold_weight=0: set gold_weight")
        for name, is_there, cure in (
            ("beta", self.beta, "0, because the KL term would count the gold call's tokens as sampled ones"),
            ("top_entropy_quantile", self.top_entropy_quantile < 1, "1, because it would mask most of the gold call"),
            ("entropy_coef", self.entropy_coef or self.use_adaptive_entropy, "0, because gold calls are not sampled"),
        ):
            if self.gold_weight and is_there:
                raise ValueError(f"gold_weight={self.gold_weight} cannot be combined with {name}: set it to {cure}")

    def _check_credit(self) -> None:
        # Branches have the baseline with every credit, and a diagnosis compares with all credits.
        has_baseline = self.credit != "completion" or self.branch_size is not None or self.diagnose_steps is not None
        if self.credit_baseline is not None and not has_baseline:
            raise ValueError(
                f"credit_baseline={self.credit_baseline!r} has no effect with credit='completion' and no branch_size, "
                "whose baseline is GRPO's: leave it out, or set credit='region' or 'turn'"
            )
        if not 0 <= self.turn_discount <= 1:
            raise ValueError(f"turn_discount must be in [0, 1], got {self.turn_discount}: 1 discounts nothing")
        if self.turn_discount != 1 and self.credit not in ("turn", "region"):
            raise ValueError(
                f"turn_discount={self.turn_discount} has no effect with credit={self.credit!r}, which looks at no "
                "later turns: set credit='turn', or turn_discount=1"
            )
        if self.credit == "completion" and self.branch_size is None and not self.gold_weight:
            return
        per_token = f"credit={self.credit!r} with branch_size={self.branch_size}, which is per token"
        cure = "or credit='completion' and no branch_size"
        if self.gold_weight:
            per_token, cure = f"gold_weight={self.gold_weight}, which is per token", f"{cure} and gold_weight=0"
        if self.importance_sampling_level == "sequence" and self.loss_type in _SHARED_RATIO_LOSSES:
            raise ValueError(
                f"importance_sampling_level='sequence' with loss_type={self.loss_type!r} multiplies all tokens of a "
                f"completion by one ratio, so {per_token}, averages out: set importance_sampling_level='token', {cure}"
            )
        if self.loss_type == "vespo":
            raise ValueError(
                f"loss_type='vespo' weighs a completion by the sign of its advantage, so {per_token}, would change "
                f"that decision token by token: set another loss_type, {cure}"
            )
        if self.off_policy_mask_threshold is not None:
            raise ValueError(
                f"off_policy_mask_threshold={self.off_policy_mask_threshold} drops a completion by the sign of its "
                f"advantage, so {per_token}, would change that decision token by token: leave it out, {cure}"
            )

    def check_rule(self, coefficients: CoefficientsFunc | dict[str, Any] | str | None) -> None:
        """
        Refuse a rule that has no effect with the loss.

        Args:
            coefficients (`str`, `dict[str, Any]` or [`~rest_trl.regions.CoefficientsFunc`]):
                The rule of the training.

        Raises:
            ValueError: if one importance ratio per sequence makes its coefficients cancel.
        """
        shared_ratio = self.importance_sampling_level == "sequence" and self.loss_type in _SHARED_RATIO_LOSSES
        if shared_ratio and rule_name(coefficients) in PRESETS.keys() - {"uniform"}:
            raise ValueError(
                f"importance_sampling_level='sequence' with loss_type={self.loss_type!r} multiplies all tokens of a "
                f"completion by one ratio, so coefficients={rule_name(coefficients)!r}, of mean 1, cancel out: set "
                "importance_sampling_level='token', or coefficients='uniform' for GSPO itself"
            )
