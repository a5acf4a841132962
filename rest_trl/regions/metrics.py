"""What a run logs about its regions, summed over the micro-batches and ranks of an optimiser step."""

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger

from ..tool_calls import Part, Region
from .partition import to_regions
from .statistics import RegionStatistics, region_sums


logger = get_logger(__name__)

_UNPARSED_WARNING = 0.5  # share of completions; plain answers alone are rarely most of a tool-calling data set


class RegionMetrics:
    """
    Entropies, coefficients, advantages and shares of the regions in one optimiser step.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            The trainer's.
        tool_call_syntax (`str`):
            Name of the wire syntax, for warnings.
    """

    def __init__(self, accelerator: Accelerator, tool_call_syntax: str) -> None:
        self._accelerator = accelerator
        self._tool_call_syntax = tool_call_syntax
        self._sums: torch.Tensor | None = None
        self._warned: set[str] = set()

    def add(
        self, part_ids: torch.Tensor, entropies: torch.Tensor, coefficients: torch.Tensor, advantages: torch.Tensor
    ) -> None:
        """
        Add one micro-batch of this rank.

        Args:
            part_ids (`torch.Tensor` of shape `(B, T)`):
                [`Part`] per token.
            entropies (`torch.Tensor` of shape `(B, T)`):
                Entropy per token in nats.
            coefficients (`torch.Tensor` of shape `(B, T)`):
                Coefficient per token.
            advantages (`torch.Tensor` of shape `(B, T)`):
                Advantage per token, as the loss reads it.
        """
        policy = (part_ids != Part.NONE).any(1)
        parsed = ((part_ids >= Part.TAG) | (part_ids == Part.REASONING)).any(1)
        completions = torch.stack([policy.sum(), (policy & ~parsed).sum()]).float()
        sums = region_sums(to_regions(part_ids), entropies, coefficients, advantages.abs())
        sums = torch.cat([sums.flatten(), completions])
        self._sums = sums if self._sums is None else self._sums + sums

    def finish(self, statistics: RegionStatistics) -> dict[str, float]:
        """
        End the optimiser step: reduce the sums over the ranks and add the step to the running statistics.

        Args:
            statistics ([`RegionStatistics`]):
                Running statistics, updated in place.

        Returns:
            `dict[str, float]`: metrics by name. A region without tokens has only its share.
        """
        assert self._sums is not None, "no micro-batch was added"
        totals = self._accelerator.reduce(self._sums, reduction="sum").cpu()
        self._sums = None
        tokens, entropy_counts, entropy_sums, *others = totals[:-2].view(7, len(Region))
        coefficients, sizes = others[1] / others[0].clamp(min=1), others[3] / others[2].clamp(min=1)
        if (entropy_counts < tokens).any():
            lost = int((tokens - entropy_counts).sum())
            self._warn(
                "entropies",
                f"{lost} of {int(tokens.sum())} tokens have no finite entropy and are left out of the means of their "
                "regions: the policy's logits are NaN or infinite; lower learning_rate, or check the dtype",
            )
        statistics.update(tokens, entropy_counts, entropy_sums)
        metrics = {}
        for region in list(Region)[1:]:
            name = region.name.lower()
            metrics[f"rest/share/{name}"] = (tokens[region] / tokens.sum().clamp(min=1)).item()
            if entropy_counts[region] > 0:
                metrics[f"rest/entropy/{name}"] = statistics.entropies[region]
            if tokens[region] > 0:
                metrics[f"rest/coefficient/{name}"] = coefficients[region].item()
                metrics[f"rest/advantage/{name}"] = sizes[region].item()
        metrics["rest/unparsed"] = (totals[-1] / totals[-2].clamp(min=1)).item()
        if metrics["rest/unparsed"] > _UNPARSED_WARNING:
            self._warn(
                "unparsed",
                f"{metrics['rest/unparsed']:.0%} of the completions of a step hold neither a call nor reasoning in "
                f"the syntax {self._tool_call_syntax!r}, so all their tokens get the same coefficient. If the policy "
                "writes another syntax, set tool_call_syntax to it; rest/unparsed goes on to log the share",
            )
        return metrics

    def _warn(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning(message)
