"""Forward passes over packed trees, and where they take the place of TRL's."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from transformers import PreTrainedModel

from .attention import IMPLEMENTATIONS
from .tree import PromptTree, build_tree


logger = get_logger(__name__)

# What TRL's method returns: log-probabilities and entropies, both of shape (B, T), and the auxiliary loss.
Scores = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
# A packed row is computed where it has at most this share of the tokens of separate rows.
_WORTH = 0.9
# Mean difference of log-probabilities, in nats, above which a model does not compute the same with shared prompts.
_BOUND, _BOUND_HALF = 1e-3, 0.05


def objection(model: PreTrainedModel) -> str | None:
    """Why the prompts of a model cannot be shared; `None` if they can."""
    config, implementation = model.config.get_text_config(), model.config._attn_implementation
    settings = config.to_dict()  # which of these two keys it has depends on the family of the model
    others = set(settings.get("layer_types") or ()) - {"full_attention", "sliding_attention"}
    if config is not model.config:
        return "the policy takes images"
    if model._is_stateful or others:
        return f"the policy has layers without full or sliding attention ({', '.join(sorted(others)) or 'stateful'})"
    if settings.get("rope_parameters") is None:
        return "the policy has no rotary positions, and others would depend on the padding of the prompts"
    if not model._supports_attention_backend:
        return f"the attention of {type(model).__name__} cannot be replaced"
    if implementation not in (*IMPLEMENTATIONS, *IMPLEMENTATIONS.values()):
        return f"attn_implementation={implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}"
    return None


def packed_scores(model: Any, tree: PromptTree, autocast: Any, entropy: bool, aux_loss: bool) -> Scores:
    """Scores of the rows of a tree from one pass over it, by a model with TRL's fused head."""
    with autocast:
        outputs = model(
            input_ids=tree.input_ids,
            position_ids=tree.position_ids,
            # The auxiliary loss weights tokens by the mask. A mask of four axes is taken as it is, so none is made.
            attention_mask=tree.counts if aux_loss else torch.empty(1, 1, 0, 0, device=tree.input_ids.device),
            shift_labels=tree.labels,
            prompt_tree=tree,
            fused_lm_head=True,
            **({"output_router_logits": True} if aux_loss else {}),
        )

    def unpacked(values: torch.Tensor) -> torch.Tensor:
        return values[0].index_select(0, tree.gather.flatten()).view_as(tree.gather) * tree.scored

    entropies = unpacked(outputs.entropy) if entropy else None
    return unpacked(outputs.log_probs), entropies, outputs.aux_loss if aux_loss else None


class SharedPrompts:
    """
    Scores completions with each token that rows of a micro-batch share computed once.

    Where nothing can be shared, rows are computed one by one, as TRL does. Before the first packed row, all processes
    compute one group both ways; if the log-probabilities differ by more than a bound, nothing is shared from then on.

    Args:
        mode (`str`):
            `"auto"` or `"true"`.
        models (`list[PreTrainedModel]`):
            The policy, and its reference if that is another model.
        accelerator ([`~accelerate.Accelerator`]):
            That of the trainer.
        objections (`dict[str, bool]`):
            Further reasons against it, and whether they apply.

    Raises:
        ValueError: if `mode="true"` and prompts cannot be shared.
    """

    def __init__(
        self, mode: str, models: list[PreTrainedModel], accelerator: Accelerator, objections: dict[str, bool]
    ) -> None:
        self.mode, self.accelerator = mode, accelerator
        self.is_on, self.is_checked = True, False
        self.num_tokens = 0  # that passes with gradients have computed
        reasons = [reason for reason, applies in objections.items() if applies]
        reasons += [reason for reason in map(objection, models) if reason is not None]
        if reasons:
            self._switch_off(f"{reasons[0]}, so each row is computed with a prompt of its own")
            return
        for model in models:
            implementation = model.config._attn_implementation
            model.set_attn_implementation(IMPLEMENTATIONS.get(implementation, implementation))

    def take_num_tokens(self) -> int:
        """How many tokens this process has computed for the loss since the last call, padding included."""
        num_tokens, self.num_tokens = self.num_tokens, 0
        return num_tokens

    def _switch_off(self, message: str) -> None:
        if self.mode == "true":
            raise ValueError(f"share_prompts='true': {message}; set share_prompts='auto' to allow that")
        logger.warning(f"share_prompts={self.mode!r}: {message}")
        self.is_on = False

    def scores(
        self,
        separate_scores: Callable[..., Scores],
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        num_kept: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
    ) -> Scores:
        """
        What TRL's `_get_per_token_logps_and_entropies` returns.

        Args:
            separate_scores (`Callable`):
                That method, which computes rows one by one.
            model, input_ids, attention_mask, num_kept, batch_size, compute_entropy, compute_aux_loss:
                Its arguments.
        """
        options = {"compute_entropy": compute_entropy, "compute_aux_loss": compute_aux_loss}
        size = batch_size or len(input_ids)
        chunks: list[Scores] = []
        for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
            tree = self._tree(ids, mask, num_kept, compute_aux_loss)
            if self.is_on and not self.is_checked:
                self._check(separate_scores, model, tree, ids, mask, num_kept)
            if tree is None or not (self.is_on and self.is_checked):
                num_tokens = ids.numel()
                chunks.append(separate_scores(model, ids, mask, num_kept, **options))
            else:
                num_tokens, autocast = tree.num_tokens, self.accelerator.autocast()
                chunks.append(packed_scores(model, tree, autocast, compute_entropy, compute_aux_loss))
            if torch.is_grad_enabled():
                self.num_tokens += num_tokens
        logps, entropies, aux_losses = zip(*chunks, strict=True)
        return (
            torch.cat(logps),
            torch.cat(entropies) if compute_entropy else None,
            torch.stack(aux_losses).mean() if compute_aux_loss else None,
        )

    def regrouped(self, micro_batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        The micro-batches of a rollout, with [`whole_groups`] where one of them then saves enough.

        TRL shuffles completions over the micro-batches, and where nothing is saved, they stay as it left them.
        """
        if not self.is_on:
            return micro_batches
        regrouped = whole_groups(micro_batches)
        is_worth_it = any(self._tree(*_rows(batch), keep_last=False) is not None for batch in regrouped)
        return regrouped if is_worth_it else micro_batches

    def _tree(self, ids: torch.Tensor, mask: torch.Tensor, num_kept: int, keep_last: bool) -> PromptTree | None:
        """The tree of a micro-batch where it saves enough."""
        if not self.is_on or len(ids) < 2 or not mask[:, -num_kept:].any() or not mask[:, :-num_kept].any(1).all():
            return None
        tree = build_tree(ids, mask, num_kept, keep_last)
        return tree if tree.num_tokens <= _WORTH * tree.num_separate else None

    def _check(
        self,
        separate_scores: Callable[..., Scores],
        model: Any,
        tree: PromptTree | None,
        ids: torch.Tensor,
        mask: torch.Tensor,
        num_kept: int,
    ) -> None:
        """Compute the group of the first row both ways, once all processes have something to share."""
        if not self.accelerator.gather(torch.tensor([tree is not None], device=ids.device)).all():
            return
        prompts = ids[:, :-num_kept] * mask[:, :-num_kept]
        group = (prompts == prompts[0]).all(1)
        ids, mask = ids[group], mask[group]
        was_training = model.training
        model.eval()  # dropout would differ
        try:
            with torch.no_grad():
                expected, *_ = separate_scores(model, ids, mask, num_kept)
                actual, *_ = packed_scores(
                    model, build_tree(ids, mask, num_kept), self.accelerator.autocast(), False, False
                )
        finally:
            model.train(was_training)
        count = mask[:, -num_kept:].sum().clamp(min=1)
        difference = ((actual - expected).abs().sum() / count).nan_to_num(nan=torch.inf)
        worst = self.accelerator.gather(difference.reshape(1)).max().item()
        is_full = {p.dtype for p in model.parameters()} <= {torch.float32, torch.float64}
        bound = _BOUND if is_full and self.accelerator.mixed_precision == "no" else _BOUND_HALF
        self.is_checked = True
        if worst > bound:
            self._switch_off(
                f"with shared prompts, log-probabilities of the first group differ by {worst:.2g} on average, and at "
                f"most {bound} may come from rounding, so each row is computed with a prompt of its own"
            )


def _rows(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids and mask of shape `(B, P + T)`, and `T`."""
    ids, mask = (torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], 1) for name in ("ids", "mask"))
    return ids, mask, batch["completion_ids"].size(1)


def whole_groups(micro_batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    The micro-batches of a rollout, with the completions of a prompt together, and in them those of a branch.

    Prompts stay in the order in which the micro-batches show them first.
    """
    first = micro_batches[0]
    merged: dict[str, Any] = {}
    for name, value in first.items():
        if isinstance(value, list):
            merged[name] = [row for batch in micro_batches for row in batch[name]]
        elif isinstance(value, torch.Tensor) and value.dim() > 0:
            merged[name] = torch.cat([batch[name] for batch in micro_batches])
    places = build_tree(*_rows(merged), keep_last=True).order
    prompts = [prompt.tobytes() for prompt in (merged["prompt_ids"] * merged["prompt_mask"]).cpu().numpy()]
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    order = sorted(places, key=lambda row: numbers[prompts[row]])  # stable
    size = len(first["prompt_ids"])
    regrouped = []
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        chosen = {
            name: [value[row] for row in rows] if isinstance(value, list) else value[rows]
            for name, value in merged.items()
        }
        regrouped.append(first | chosen)
    return regrouped
