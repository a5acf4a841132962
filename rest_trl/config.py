"""Configuration of [`ResTGRPOTrainer`]."""

import math
from dataclasses import dataclass, field

from trl import GRPOConfig

from .regions import PRESETS, get_coefficients_func
from .regions.normalization import SCOPES
from .rewards.schedules import SCHEDULES, check_schedule
from .runs.preflight import check_mappings, check_numbers
from .tool_calls import get_syntax


CREDITS = ("completion", "turn", "region", "local")
CREDIT_BASELINES = ("group", "leave_one_out")
BRANCHES = (None, "reasoning")

# With one importance ratio per sequence, these losses multiply all tokens of a sequence by the same factor, so
# coefficients whose mean is 1 cancel.
_SHARED_RATIO_LOSSES = ("bnpo", "dapo", "dr_grpo", "grpo", "luspo", "sapo")
# TRL itself checks these only after the first rollout.
_CHOICES = {
    "loss_type": (*_SHARED_RATIO_LOSSES, "cispo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none"),
}


@dataclass
class ResTGRPOConfig(GRPOConfig):
    r"""
    Configuration class for the [`ResTGRPOTrainer`].

    Only the arguments that [`~trl.GRPOConfig`] lacks are listed. Two of its arguments default to the paper's values:
    `loss_type="grpo"`, which is not TRL's default, and `beta=0.0`.

    `top_entropy_quantile` masks tokens after the coefficients are normalised, so their mean is 1 over all tokens of
    the policy, not over those that are kept. With `loss_type="vespo"` the weight of a completion depends on the sign
    of the advantage, which non-negative coefficients keep; a coefficient of 0 removes the token's loss.

    Args:
        tool_call_syntax (`str`, *optional*):
            Wire syntax of the policy's tool calls, see [`~rest_trl.tool_calls.get_syntax`]. By default that of the
            tokenizer's chat template, see [`~rest_trl.tool_calls.detect_syntax`]; set it where the prompts ask for
            another one, as ToolRL's do (`"rlla"`).
        coefficients (`str`, *optional*, defaults to `"entropy"`):
            `"entropy"` (the paper), `"released"` (the authors' code), `"uniform"` (GRPO), or the dotted path of a
            function, see [`~rest_trl.regions.CoefficientsFunc`].
        coefficients_scope (`str`, *optional*, defaults to `"completion"`):
            Where the mean coefficient is 1: over each `"completion"`, or over each assistant `"turn"`. With `"turn"`,
            the regions of one turn of a dialogue do not change the total weight of the others.
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
            `credit="completion"` has one with `branch` only, and otherwise GRPO's.
        turn_discount (`float`, *optional*, defaults to `1.0`):
            Discount of later turns: in the credit of a turn, the reward of the turn `n` turns later is multiplied by
            `turn_discount ** n`. Below 1 the credit is no longer that of the sum of the rewards.
        branch (`str`, *optional*):
            `"reasoning"` samples one reasoning for every `branch_size` completions, and for each of them only what
            follows it, see [`~rest_trl.credit.branched_advantages`]. By default, and always in evaluations, every
            completion is sampled whole.
        branch_size (`int`, *optional*, defaults to `4`):
            Completions per reasoning with `branch`; `num_generations` is a multiple of it.
        refill_groups (`int`, *optional*, defaults to `0`):
            How many more groups, of fresh prompts, a rollout may sample to replace groups whose completions have
            equal rewards, see `rest_trl.rollouts.refill`.
        entropy_surrogate (`str`, *optional*, defaults to `"one_minus_exp"`):
            Region weight from its mean entropy `H` in nats: `"one_minus_exp"` for `1 / (1 - exp(-H))`, `"reciprocal"`
            for `1 / H`.
        entropy_decay (`float`, *optional*, defaults to `0.9`):
            Weight of the past in the running mean of the region entropies, per optimiser step.
        coefficient_min (`float`, *optional*, defaults to `0.5`):
            Lower bound `w_min` of a region's weight.
        coefficient_max (`float`, *optional*, defaults to `1.5`):
            Upper bound `w_max` of a region's weight.
        parameter_name_scale (`float`, *optional*, defaults to `1.0`):
            Factor on the weight of parameter names, against that of parameter values.
        curriculum (`bool`, *optional*, defaults to `True`):
            Whether the weights of `"entropy"` move from structure to reasoning.
        curriculum_horizon (`int`, *optional*):
            Steps after which the curriculum is complete. By default the whole run.
        format_slope (`float`, *optional*, defaults to `0.5`):
            By how much the format's weight falls over the curriculum.
        parameters_slope (`float`, *optional*, defaults to `0.6`):
            By how much the parameters' weight rises over the curriculum (the released code: 0.6 to 1.2).
        reasoning_slope (`float`, *optional*, defaults to `0.4`):
            By how much the reasoning's weight rises over the curriculum (the released code: 0.6 to 1.0).
        diagnose_steps (`int`, *optional*):
            Optimiser steps between diagnoses of the gradients, see [`~rest_trl.lab.diagnose.DiagnoseCallback`]. Each
            diagnosis costs about 20 backward passes over the rollout. By default none is made.
    """

    loss_type: str = field(
        default="grpo", metadata={"help": "Loss, see GRPOConfig. The paper averages over each completion: grpo."}
    )
    beta: float = field(default=0.0, metadata={"help": "KL coefficient. The paper uses none."})
    tool_call_syntax: str | None = field(
        default=None,
        metadata={"help": "Wire syntax of the policy's tool calls. Default: that of the tokenizer's chat template."},
    )
    coefficients: str = field(
        default="entropy",
        metadata={"help": "entropy (the paper), released (the authors' code), uniform (GRPO), or a dotted path."},
    )
    coefficients_scope: str = field(
        default="completion",
        metadata={
            "help": "Over what the mean coefficient is 1: completion, or turn, each assistant turn by itself.",
            "choices": list(SCOPES),
        },
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
    branch: str | None = field(
        default=None,
        metadata={"help": "reasoning: several completions share one reasoning, which is sampled once."},
    )
    branch_size: int = field(default=4, metadata={"help": "Completions per reasoning with branch."})
    refill_groups: int = field(
        default=0, metadata={"help": "Groups that a rollout may sample in the place of groups of equal reward."}
    )
    entropy_surrogate: str = field(
        default="one_minus_exp",
        metadata={"help": "Region weight from its entropy H: one_minus_exp, 1/(1-exp(-H)), or reciprocal, 1/H."},
    )
    entropy_decay: float = field(
        default=0.9, metadata={"help": "Weight of the past in the running region entropies, per optimiser step."}
    )
    coefficient_min: float = field(default=0.5, metadata={"help": "Lower bound of a region's weight."})
    coefficient_max: float = field(default=1.5, metadata={"help": "Upper bound of a region's weight."})
    parameter_name_scale: float = field(
        default=1.0, metadata={"help": "Factor on the weight of parameter names, against that of their values."}
    )
    curriculum: bool = field(default=True, metadata={"help": "Move the weights from structure to reasoning."})
    curriculum_horizon: int | None = field(
        default=None, metadata={"help": "Steps after which the curriculum is complete. Default: the whole run."}
    )
    format_slope: float = field(default=0.5, metadata={"help": "What the format's weight loses over the curriculum."})
    parameters_slope: float = field(
        default=0.6, metadata={"help": "What the parameters' weight gains over the curriculum."}
    )
    reasoning_slope: float = field(
        default=0.4, metadata={"help": "What the reasoning's weight gains over the curriculum."}
    )
    diagnose_steps: int | None = field(
        default=None, metadata={"help": "Steps between diagnoses of the gradients. Default: none, at no cost."}
    )

    @property
    def steps_per_rollout(self) -> int:
        """Optimiser steps per rollout. The schedules of the released code count rollouts, while TRL counts updates."""
        micro_steps = (self.steps_per_generation or self.gradient_accumulation_steps) * self.num_iterations
        return max(1, micro_steps // self.gradient_accumulation_steps)

    @property
    def leaves_one_out(self) -> bool:
        """Whether the baseline of `credit` leaves out the completion itself."""
        if self.credit_baseline is None:
            return self.credit == "turn"
        return self.credit_baseline == "leave_one_out"

    def __post_init__(self) -> None:
        check_numbers(self)
        super().__post_init__()
        check_mappings(self)
        for name, choices in _CHOICES.items():
            if vars(self)[name] not in choices:
                raise ValueError(f"unknown {name}={vars(self)[name]!r}: choose of {', '.join(choices)}")
        if self.tool_call_syntax is not None:
            get_syntax(self.tool_call_syntax)
        get_coefficients_func(self.coefficients)
        if self.coefficients_scope not in SCOPES:
            raise ValueError(f"unknown coefficients_scope={self.coefficients_scope!r}: choose of {', '.join(SCOPES)}")
        check_schedule(self.reward_schedule)
        if self.entropy_surrogate not in ("one_minus_exp", "reciprocal"):
            raise ValueError(
                f"unknown entropy_surrogate {self.entropy_surrogate!r}: choose 'one_minus_exp' or 'reciprocal'"
            )
        if not 0 <= self.entropy_decay < 1:
            raise ValueError(f"entropy_decay must be in [0, 1), got {self.entropy_decay}: 0 keeps only the last step")
        # Comparisons are written so that NaN fails them.
        if not 0 <= self.coefficient_min < math.inf:
            raise ValueError(f"coefficient_min must not be negative, got {self.coefficient_min}: 0 masks a region")
        if not (0 < self.coefficient_max < math.inf and self.coefficient_min <= self.coefficient_max):
            raise ValueError(
                f"coefficient_max must be positive and at least coefficient_min, got coefficient_min="
                f"{self.coefficient_min}, coefficient_max={self.coefficient_max}: swap or widen them"
            )
        if self.curriculum_horizon is not None and self.curriculum_horizon <= 0:
            raise ValueError(
                f"curriculum_horizon must be positive, got {self.curriculum_horizon}: set curriculum=False for none"
            )
        for name in ("format_slope", "parameters_slope", "reasoning_slope"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}: 0 holds the region still")
        if not 0 <= self.parameter_name_scale < math.inf:
            raise ValueError(
                f"parameter_name_scale must not be negative, got {self.parameter_name_scale}: 1 changes nothing"
            )
        if self.diagnose_steps is not None and self.diagnose_steps <= 0:
            raise ValueError(f"diagnose_steps must be positive, got {self.diagnose_steps}: leave it out for none")
        if self.credit not in CREDITS or self.credit_baseline not in (None, *CREDIT_BASELINES):
            raise ValueError(
                f"unknown credit={self.credit!r} or credit_baseline={self.credit_baseline!r}: choose of "
                f"{', '.join(CREDITS)} and of {', '.join(CREDIT_BASELINES)}"
            )
        # Branches have the baseline with every credit, and a diagnosis compares with all credits.
        has_baseline = self.credit != "completion" or self.branch is not None or self.diagnose_steps is not None
        if self.credit_baseline is not None and not has_baseline:
            raise ValueError(
                f"credit_baseline={self.credit_baseline!r} has no effect with credit='completion' and branch=None, "
                "whose baseline is GRPO's: leave it out, or set credit='region' or 'turn'"
            )
        self._check_branches()
        if self.refill_groups < 0:
            raise ValueError(f"refill_groups must not be negative, got {self.refill_groups}: 0 keeps wasted groups")
        if not 0 <= self.turn_discount <= 1:
            raise ValueError(f"turn_discount must be in [0, 1], got {self.turn_discount}: 1 discounts nothing")
        if self.turn_discount != 1 and self.credit not in ("turn", "region"):
            raise ValueError(
                f"turn_discount={self.turn_discount} has no effect with credit={self.credit!r}, which looks at no "
                "later turns: set credit='turn', or turn_discount=1"
            )
        shared_ratio = self.importance_sampling_level == "sequence" and self.loss_type in _SHARED_RATIO_LOSSES
        if shared_ratio and (self.credit != "completion" or self.branch is not None):
            raise ValueError(
                f"importance_sampling_level='sequence' with loss_type={self.loss_type!r} multiplies all tokens of a "
                f"completion by one ratio, so credit={self.credit!r} with branch={self.branch!r}, which is per token, "
                "averages out: set importance_sampling_level='token', or credit='completion' and branch=None"
            )
        if shared_ratio and self.coefficients in PRESETS and self.coefficients != "uniform":
            raise ValueError(
                f"importance_sampling_level='sequence' with loss_type={self.loss_type!r} multiplies all tokens of a "
                f"completion by one ratio, so coefficients={self.coefficients!r}, of mean 1, cancel out: set "
                "importance_sampling_level='token', or coefficients='uniform' for GSPO itself"
            )

    def _check_branches(self) -> None:
        if self.branch not in BRANCHES:
            raise ValueError(f"unknown branch={self.branch!r}: choose 'reasoning', or None for whole completions")
        if self.branch is None:
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
