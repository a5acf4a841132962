"""Configuration of [`~rest_trl.lab.sft.ResTSFTTrainer`]."""

import math
from dataclasses import dataclass, field
from typing import Any

from trl import SFTConfig

from ...runs.preflight import check_mappings, check_numbers
from ...tool_calls import Region, get_syntax


@dataclass
class ResTSFTConfig(SFTConfig):
    r"""
    Configuration class for the [`~rest_trl.lab.sft.ResTSFTTrainer`].

    Only the arguments that [`~trl.SFTConfig`] lacks are listed. The weights of a completion's tokens are divided by
    their mean, so that only ratios of the five matter: all ones, the default, is SFT; larger weights of format, tool
    names and parameters are TSFT; a larger weight of reasoning is RSFT (arXiv 2509.21826, baselines).

    The loss is on the gold completion, one per row. This rules out `packing`, `padding_free`, `assistant_only_loss`,
    `completion_only_loss=False` and `truncation_mode="keep_end"`; and unequal weights need `loss_type="nll"` without
    label smoothing.

    Args:
        tool_call_syntax (`str`, *optional*):
            Wire syntax of the gold completions, see [`~rest_trl.tool_calls.get_syntax`]. By default that of the
            tokenizer's chat template, see [`~rest_trl.tool_calls.detect_syntax`].
        chat_template_kwargs (`dict`, *optional*):
            Further arguments of the chat template, for messages that the training program renders, as in
            [`ResTGRPOConfig`].
        format_weight (`float`, *optional*, defaults to `1.0`):
            Weight of tags, JSON structure and the end of the turn.
        tool_name_weight (`float`, *optional*, defaults to `1.0`):
            Weight of tool names.
        parameters_weight (`float`, *optional*, defaults to `1.0`):
            Weight of names and values of parameters.
        reasoning_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the reasoning.
        response_weight (`float`, *optional*, defaults to `1.0`):
            Weight of text for the user.
    """

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "chat_template_kwargs"]

    tool_call_syntax: str | None = field(
        default=None,
        metadata={"help": "Wire syntax of the gold completions. Default: that of the tokenizer's chat template."},
    )
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Further arguments of the chat template, such as enable_thinking."}
    )
    format_weight: float = field(default=1.0, metadata={"help": "Weight of tags and JSON structure in the loss."})
    tool_name_weight: float = field(default=1.0, metadata={"help": "Weight of tool names in the loss."})
    parameters_weight: float = field(
        default=1.0, metadata={"help": "Weight of names and values of parameters in the loss."}
    )
    reasoning_weight: float = field(default=1.0, metadata={"help": "Weight of the reasoning in the loss."})
    response_weight: float = field(default=1.0, metadata={"help": "Weight of text for the user in the loss."})

    @property
    def region_weights(self) -> list[float]:
        """Weight of every [`Region`]; `NONE` holds no gold token."""
        weights = {
            Region.NONE: 0.0,
            Region.FORMAT: self.format_weight,
            Region.TOOL_NAME: self.tool_name_weight,
            Region.PARAMETERS: self.parameters_weight,
            Region.REASONING: self.reasoning_weight,
            Region.RESPONSE: self.response_weight,
        }
        return [weights[region] for region in Region]

    def __post_init__(self) -> None:
        check_numbers(self)
        super().__post_init__()
        check_mappings(self)
        if self.tool_call_syntax is not None:
            get_syntax(self.tool_call_syntax)
        weights = self.region_weights[1:]
        # The comparison is written so that NaN fails it.
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(
                "format_weight, tool_name_weight, parameters_weight, reasoning_weight and response_weight must be "
                f"finite and not negative, and one of them positive, got {weights}: 0 leaves a region out, 1 for all "
                "is SFT"
            )
        if self.packing or self.eval_packing or self.padding_free:
            raise ValueError(
                "packing, eval_packing and padding_free join several completions in one row, whose weights are to "
                "have a mean of 1 each: leave them out"
            )
        if self.assistant_only_loss or self.completion_only_loss is False:
            raise ValueError(
                "the loss is on the gold completion of each row, which assistant_only_loss=True and "
                "completion_only_loss=False contradict: leave them out"
            )
        if self.truncation_mode != "keep_start":
            raise ValueError(
                f"truncation_mode={self.truncation_mode!r} can cut off the start of a completion, without which its "
                "regions are not known: set truncation_mode='keep_start'"
            )
        if len(set(weights)) > 1 and (self.loss_type != "nll" or self.label_smoothing_factor != 0):
            raise ValueError(
                f"weights of regions apply to the negative log-likelihood, not to loss_type={self.loss_type!r} with "
                f"label_smoothing_factor={self.label_smoothing_factor}: set loss_type='nll' and no smoothing, or all "
                "weights to 1"
            )
