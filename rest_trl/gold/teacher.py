"""The gold call as teacher: what the trainer adds to a rollout."""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.logging import get_logger
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from ..rollouts.rollout import Rollout, policy_mask
from .continuations import Continuation, GoldContinuations, GoldForms, Ids
from .rows import gold_weights, splice, with_gold_rows


logger = get_logger(__name__)

_NOTHING = Continuation(0, [])


class GoldTeacher:
    """
    Adds the gold calls, and what they teach, to the rollouts of a trainer.

    Ablations override [`golds`](GoldTeacher.golds), [`weights`](GoldTeacher.weights) or `after_reasoning`.

    Args:
        trainer ([`~rest_trl.ResTGRPOTrainer`]):
            The trainer.

    Attributes:
        after_reasoning (`bool`):
            Whether the gold call follows each sampled reasoning. If not, the whole gold completion follows the prompt.
        max_advantage (`float`):
            Upper bound of `G w - 1`, the advantage of reasoning tokens.

    Raises:
        ValueError: if completions may have several turns, or images.
    """

    after_reasoning = True
    max_advantage = 3.0

    def __init__(self, trainer: Any) -> None:
        for name, is_there in (
            ("tools or an environment_factory", bool(trainer.tools) or trainer.environment_factories is not None),
            ("a policy of images", trainer.has_images),
        ):
            if is_there:
                raise ValueError(
                    f"gold_weight={trainer.args.gold_weight} cannot be combined with {name}, because the gold call is "
                    "put after the reasoning of one turn of text: set gold_weight=0"
                )
        self._trainer = trainer
        self._continuations = GoldContinuations(
            trainer.tokenizer, trainer.partitioner, trainer.eos_token_ids, trainer.chat_template_kwargs
        )
        trainer.add_callback(GoldForms())
        self._has_warned = False

    @property
    def _forms(self) -> GoldForms:
        # Looked up each time: a resumed `Trainer` puts a restored callback in the place of the first one.
        return next(cb for cb in self._trainer.callback_handler.callbacks if isinstance(cb, GoldForms))

    def golds(self, solutions: Sequence[Any]) -> Sequence[Any]:
        """The gold of each completion of this process, from the column `solution`."""
        return solutions

    def weights(self, log_probs: torch.Tensor) -> torch.Tensor:
        """`G w` of shape `(N,)` from log-probabilities of that shape, see [`~rest_trl.gold.gold_weights`]."""
        return gold_weights(log_probs, self._trainer.num_generations)

    def teach(self, rollout: Rollout, batch: dict[str, Any]) -> None:
        """
        Add the gold calls to the tensors of a rollout, as [`~rest_trl.gold.with_gold_rows`] takes them, and to their
        advantages, which become of shape `(B, T)`, those of reasonings.
        """
        trainer = self._trainer
        if policy_mask(batch).sum() < batch["completion_mask"].sum():
            raise ValueError(
                "gold_weight works with completions of one turn, and rollout_func gave some with tokens that are not "
                "the policy's: set gold_weight=0"
            )
        sampled = list(zip(rollout.prompt_ids, rollout.completion_ids, rollout.turns, strict=True))
        golds = self.golds([row.get("solution") for row in rollout.inputs])
        rows = self._continuations.find(sampled, golds, self._forms, self.after_reasoning)
        # A completion that TRL has masked as a whole takes no part.
        is_kept = batch["completion_mask"].any(1).tolist()
        taught = [row if row and kept else _NOTHING for row, kept in zip(rows, is_kept, strict=True)]
        self._fill(batch, taught)
        of_forms = self._log_probs(batch)
        of_rows = of_forms.logsumexp(1)
        log_probs = trainer.accelerator.gather(of_rows)
        weights = self.weights(log_probs)
        first = trainer.accelerator.process_index * len(rows)
        own = weights[first : first + len(rows)]
        # Minus infinity less itself is NaN: no gold call follows a reasoning that does not end.
        shares = (of_forms - of_rows.unsqueeze(1)).exp()
        weight = trainer.args.gold_weight
        batch["gold_advantages"] = (weight * own.unsqueeze(1) * shares).nan_to_num(0.0)
        columns = torch.arange(batch["completion_ids"].size(1), device=own.device)
        reasoning = weight * (own - 1).clamp(max=self.max_advantage).nan_to_num(0.0)
        reasoning = torch.where(columns < batch["gold_prefix_lengths"].unsqueeze(1), reasoning.unsqueeze(1), 0.0)
        advantages = batch["advantages"]
        batch["advantages"] = (advantages if advantages.dim() == 2 else advantages.unsqueeze(1)) + reasoning
        trainer.log_column("gold_probability", of_rows.double().exp().tolist())
        trainer.log_column("gold_weight", own.nan_to_num(0.0).tolist())
        self._log(log_probs, weights, rows)

    def with_rows(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A micro-batch with its gold calls as further rows, of which all processes have equally many."""
        count = inputs["gold_advantages"].count_nonzero().unsqueeze(0)
        num_rows = int(self._trainer.accelerator.gather(count).max())
        return with_gold_rows(inputs, self._trainer.loss_type, num_rows)

    def _fill(self, batch: dict[str, Any], rows: Sequence[Continuation]) -> None:
        """Put the ids of all forms into tensors of shapes `(B, F, Y)`; at least one form of one token, for no gold."""
        num_forms = max(1, *(len(row.forms) for row in rows))
        forms: list[Ids] = [form for row in rows for form in [*row.forms, *[()] * (num_forms - len(row.forms))]]
        ids = pad_sequence([torch.tensor(form, dtype=torch.long) for form in [*forms, (0,)]], batch_first=True)[:-1]
        lengths = torch.tensor([len(form) for form in forms]).unsqueeze(1)
        mask = (torch.arange(ids.size(1)) < lengths).long()
        device = batch["completion_ids"].device
        batch["gold_ids"], batch["gold_mask"] = (t.view(len(rows), num_forms, -1).to(device) for t in (ids, mask))
        batch["gold_prefix_lengths"] = torch.tensor([row.length for row in rows], device=device)

    def _log_probs(self, batch: dict[str, Any]) -> torch.Tensor:
        """Log-probabilities of all forms, of shape `(B, F)`, minus infinity where there is none."""
        trainer, mask, prefixes = self._trainer, batch["gold_mask"], batch["gold_prefix_lengths"]
        sources, forms = torch.nonzero(mask.any(2), as_tuple=True)
        log_probs = torch.full(mask.shape[:2], -torch.inf, device=mask.device)
        logps = torch.zeros(mask.shape, device=mask.device)
        # All processes score as many rows, because those of a sharded model wait for each other.
        own = len(sources)
        count = int(trainer.accelerator.gather(torch.tensor([own], device=mask.device)).max())
        if count:
            rows, of_row = (pad(found, (0, count - own)) for found in (sources, forms))
            gold_ids, gold_mask = batch["gold_ids"][rows, of_row], mask[rows, of_row]
            lengths = gold_mask.sum(1).clamp(min=1)
            ids = splice(batch["completion_ids"][rows], gold_ids, prefixes[rows], lengths)
            is_there = splice(batch["completion_mask"][rows], torch.ones_like(gold_ids), prefixes[rows], lengths)
            scored = trainer.log_probs(
                torch.cat([batch["prompt_ids"][rows], ids], 1),
                torch.cat([batch["prompt_mask"][rows], is_there], 1),
                ids.size(1),
            )
            columns = prefixes[rows].unsqueeze(1) + torch.arange(gold_ids.size(1), device=mask.device)
            found = scored.float().gather(1, columns.clamp(max=ids.size(1) - 1)) * gold_mask
            logps[sources, forms], log_probs[sources, forms] = found[:own], found[:own].sum(1)
        if "old_per_token_logps" in batch or "sampling_per_token_logps" in batch:
            batch["gold_logps"] = logps
        return log_probs

    def _log(self, log_probs: torch.Tensor, weights: torch.Tensor, rows: Sequence[Continuation | None]) -> None:
        """Log the rollout, and say once what makes all weights equal."""
        trainer, size = self._trainer, self._trainer.num_generations
        counts = [
            len(rows),
            sum(row is not None for row in rows),
            sum(row is not None and not row.forms for row in rows),
            sum(row is not None and bool(row.forms) and row.length == 0 for row in rows),
            sum(len(row.forms) for row in rows if row is not None),
        ]
        counted = trainer.accelerator.gather(torch.tensor([counts], device=log_probs.device)).sum(0).tolist()
        total, with_gold, endless, bare, num_forms = counted
        groups = log_probs.view(-1, size)
        groups = groups[~weights.view(-1, size).isnan().all(1)]
        metrics = {"without": 1 - len(groups) / (total / size), "without_calls": 1 - with_gold / total}
        if with_gold:
            metrics["endless"] = endless / with_gold
        if len(groups):
            probs = groups.double().exp()
            metrics |= {
                "probability": probs.mean().item(),
                "spread": probs.std(1, correction=0).mean().item(),
                "best_weight": groups.softmax(1).amax(1).mean().item(),
                "forms": num_forms / (with_gold - endless),
            }
        for name, value in metrics.items():
            trainer.log_value(f"rest/gold/{name}", value)
        if len(groups) and bare == with_gold - endless and not self._has_warned and self.after_reasoning:
            self._has_warned = True
            logger.warning(
                "no completion of a rollout has a reasoning before its call, so the gold call gets the same weight "
                "after each, and gold_weight trains as supervised fine-tuning does: for that alone, rest-trl sft "
                "needs no rollouts"
            )


def make_teacher(trainer: Any) -> GoldTeacher:
    """The teacher that the trainer's settings name by its dotted path."""
    path = trainer.args.gold_variant
    if path is None:
        return GoldTeacher(trainer)
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"gold_variant={path!r} cannot be imported ({error}): leave it out") from error
    if not (isinstance(found, type) and issubclass(found, GoldTeacher)):
        raise ValueError(f"gold_variant={path!r} is no subclass of rest_trl.gold.GoldTeacher: leave it out")
    return found(trainer)
