"""Statistics per region: running ones, which checkpoints keep, and what each optimiser step logs."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from torch.nn.functional import pad
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..tool_calls import Part, Region
from .partition import to_regions


logger = get_logger(__name__)

_UNPARSED_WARNING = 0.5  # share of completions; plain answers alone are rarely most of a tool-calling data set


def region_sums(region_ids: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
    """
    Number of tokens of every region, and for each of `values` how many of them are finite and their sum.

    A value that is NaN or infinite, as the entropy of a diverged policy is, enters neither the sum nor its count.

    Args:
        region_ids (`torch.Tensor` of shape `(B, T)`):
            [`Region`] per token, `NONE` at tokens that are not the policy's.
        values (`torch.Tensor` of shape `(B, T)`):
            What to sum up.

    Returns:
        `torch.Tensor` of shape `(1 + 2 * len(values), R)`, float32: tokens, then count and sum of each of `values`;
        `NONE` is no region and has zeros.

    Example:

    ```python
    >>> region_sums(torch.tensor([[1, 1, 2, 0]], dtype=torch.int8), torch.tensor([[0.5, torch.nan, 2.0, 4.0]]))
    tensor([[0.0000, 2.0000, 1.0000, 0.0000, 0.0000, 0.0000],
            [0.0000, 1.0000, 1.0000, 0.0000, 0.0000, 0.0000],
            [0.0000, 0.5000, 2.0000, 0.0000, 0.0000, 0.0000]])

    ```
    """
    sums = []
    # Region by region: a one-hot of shape (B, T, R) would be the largest tensor that ResT adds to a step, and sums by
    # index are not deterministic on a GPU.
    for region in list(Region)[1:]:
        inside = region_ids == region
        sums.append(inside.sum(dtype=torch.float32))
        for value in values:
            counted = inside & value.isfinite()
            sums += [counted.sum(dtype=torch.float32), value.where(counted, 0).sum(dtype=torch.float32)]
    return pad(torch.stack(sums).view(-1, 1 + 2 * len(values)).T, (1, 0))


class RegionStatistics(TrainerCallback, ExportableState):
    """
    Running mean entropy (nats) and token share of every region.

    Each optimiser step's mean enters with weight `1 - decay`; a region's first observation counts in full, and a step
    without tokens of a region leaves its entropy as it is. `Trainer` writes [`state`](RegionStatistics.state) into
    `trainer_state.json`, from which a resumed run restores it.

    Args:
        decay (`float`):
            Weight of the past in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.entropies = [float("nan")] * len(Region)
        self.shares = [0.0] * len(Region)

    def update(self, tokens: torch.Tensor, counts: torch.Tensor, entropy_sums: torch.Tensor) -> None:
        """
        Take in one optimiser step.

        Args:
            tokens (`torch.Tensor` of shape `(R,)`):
                Policy tokens per region, over all ranks.
            counts (`torch.Tensor` of shape `(R,)`):
                How many of them have a finite entropy.
            entropy_sums (`torch.Tensor` of shape `(R,)`):
                Sum of these entropies in nats.
        """
        total = float(tokens.sum())
        if total == 0:
            return
        first = sum(self.shares) == 0
        rows = zip(tokens.tolist(), counts.tolist(), entropy_sums.tolist(), strict=True)
        for region, (region_tokens, count, entropy_sum) in enumerate(rows):
            share = region_tokens / total
            self.shares[region] = share if first else self._mix(self.shares[region], share)
            if count > 0:
                entropy, past = entropy_sum / count, self.entropies[region]
                self.entropies[region] = entropy if past != past else self._mix(past, entropy)

    def _mix(self, past: float, new: float) -> float:
        return self.decay * past + (1 - self.decay) * new

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: running entropies (nats, NaN where never observed) and shares, each of
            shape `(R,)`.
        """
        return torch.tensor(self.entropies, device=device), torch.tensor(self.shares, device=device)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps. JSON has no NaN, so a region that was never observed is `None`."""
        entropies = [None if entropy != entropy else entropy for entropy in self.entropies]
        return {
            "args": {"decay": self.decay},
            "attributes": {"observed": {"entropies": entropies, "shares": list(self.shares)}},
        }

    @property
    def observed(self) -> dict[str, Any]:
        """The running values, as [`state`](RegionStatistics.state) writes them."""
        return self.state()["attributes"]["observed"]

    @observed.setter
    def observed(self, value: dict[str, Any]) -> None:
        self.entropies = [float("nan") if entropy is None else entropy for entropy in value["entropies"]]
        self.shares = list(value["shares"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore what the checkpoint holds: `Trainer` itself restores callbacks only on request."""
        stored: Any = state.stateful_callbacks
        if type(self).__name__ in stored:
            self.observed = stored[type(self).__name__]["attributes"]["observed"]


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
