r"""
Gold likelihood as rows of a batch, as pure functions of tensors.

For a prompt with the gold call \(y^*\) and sampled reasonings \(z_1 \dots z_G\), let
\(p_i = \pi(y^* \mid x, z_i)\) and \(w_i = p_i / \sum_j p_j\). The log-likelihood
\(\log \frac{1}{G} \sum_i p_i\), with the reasoning as latent variable, has the gradient

$$
\sum_i w_i \left(\nabla \log \pi(z_i \mid x) + \nabla \log \pi(y^* \mid x, z_i)\right).
$$

The mean of \(\nabla \log \pi(z_i \mid x)\) is 0, so \(w_i - 1/G\) may stand before it. Beside GRPO's mean over the
completions, the tokens of \(z_i\) thus get the advantage \(\lambda (G w_i - 1)\), and those of \(y^*\) after \(z_i\)
\(\lambda G w_i\). Where \(y^*\) has several forms, \(p_i\) is their sum, and the tokens of form \(f\) get
\(\lambda G w_i \, p_{if} / p_i\).
"""

from typing import Any

import torch
from torch.nn.functional import pad


def gold_weights(log_probs: torch.Tensor, num_generations: int) -> torch.Tensor:
    r"""
    \(G w_i\), the likelihood of the gold call after each reasoning, relative to the mean of its group.

    Args:
        log_probs (`torch.Tensor` of shape `(N,)`):
            Log-probability of the gold call after each reasoning; minus infinity where it has none.
        num_generations (`int`):
            `G`.

    Returns:
        `torch.Tensor` of shape `(N,)`: of mean 1 in each group; NaN in groups without a gold call.

    Example:

    ```python
    >>> gold_weights(torch.tensor([0.3, 0.1]).log(), 2)
    tensor([1.5000, 0.5000])

    ```
    """
    return num_generations * log_probs.view(-1, num_generations).softmax(1).flatten()


def splice(
    own: torch.Tensor, gold: torch.Tensor, prefixes: torch.Tensor, lengths: torch.Tensor, fill: float = 0
) -> torch.Tensor:
    """
    Rows that begin as completions do and go on as gold calls do.

    Args:
        own (`torch.Tensor` of shape `(R, T)`):
            What the completions have at each token.
        gold (`torch.Tensor` of shape `(R, Y)`):
            What the gold calls have.
        prefixes, lengths (`torch.Tensor` of shape `(R,)`):
            Number of tokens of each that the row has.
        fill (`float`, *optional*, defaults to `0`):
            What follows them.

    Returns:
        `torch.Tensor` of shape `(R, W)`, `W` being the number of tokens of the longest row.

    Example:

    ```python
    >>> ids, gold_ids = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7, 8], [9, 0]])
    >>> splice(ids, gold_ids, torch.tensor([2, 1]), torch.tensor([2, 1]))
    tensor([[1, 2, 7, 8],
            [4, 9, 0, 0]])

    ```
    """
    width = int((prefixes + lengths).max())
    columns = torch.arange(width, device=own.device) - prefixes.unsqueeze(1)
    spliced = gold.gather(1, columns.clamp(0, gold.size(1) - 1)).to(own.dtype)
    spliced = torch.where(columns < 0, pad(own, (0, max(0, width - own.size(1))))[:, :width], spliced)
    return torch.where(columns < lengths.unsqueeze(1), spliced, fill)


def with_gold_rows(inputs: dict[str, Any], loss_type: str, num_rows: int | None = None) -> dict[str, Any]:
    """
    A micro-batch with its gold calls as further rows: the prompt, a reasoning and the gold call after it, of which the
    loss reads the gold call alone.

    Advantages are scaled so that in TRL's loss, a token of a completion keeps its weight, and a token of a gold call
    has the weight of a token of the completion whose reasoning it follows.

    Notation: `B` completions, `T` tokens of the longest, `F` forms of a gold call, `Y` tokens of the longest.

    Args:
        inputs (`dict[str, Any]`):
            TRL's micro-batch, whose `advantages` are of shape `(B, T)`, with `gold_ids` and `gold_mask` of shape
            `(B, F, Y)`, `gold_advantages` of shape `(B, F)`, `gold_prefix_lengths` of shape `(B,)` and, where TRL has
            log-probabilities of the policy that has sampled, `gold_logps` of shape `(B, F, Y)`.
        loss_type (`str`):
            That of [`~trl.GRPOConfig`].
        num_rows (`int`, *optional*):
            How many rows are added, because TRL gathers statistics of rows from processes that have equally many: rows
            without a token for the loss fill up. By default one for every gold call with an advantage.

    Returns:
        `dict[str, Any]`: a new micro-batch.
    """
    batch = {name: value for name, value in inputs.items() if not name.startswith("gold_")}
    sources, forms = torch.nonzero(inputs["gold_advantages"], as_tuple=True)
    missing = 0 if num_rows is None else num_rows - len(sources)
    sources, forms = pad(sources, (0, missing)), pad(forms, (0, missing))
    if not len(sources):
        return batch
    lengths = inputs["gold_mask"][sources, forms].sum(1)
    lengths[len(lengths) - missing :] = 0
    prefixes, ones = inputs["gold_prefix_lengths"][sources], torch.ones_like(inputs["gold_mask"][sources, forms])
    own_mask = inputs["completion_mask"]
    tool_mask = inputs.get("tool_mask", torch.ones_like(own_mask))

    def append(name: str, own: torch.Tensor, rows: torch.Tensor, fill: float = 0) -> None:
        width = max(own.size(1), rows.size(1))
        padded = [pad(values, (0, width - values.size(1)), value=fill) for values in (own, rows)]
        batch[name] = torch.cat(padded)

    for name in ("prompt_ids", "prompt_mask"):
        append(name, inputs[name], inputs[name][sources])
    # Only the gold call is the policy's in these rows; what it follows counts as a tool's.
    for name, own, gold, fill in (
        ("completion_ids", inputs["completion_ids"], inputs["gold_ids"][sources, forms], 0),
        ("completion_mask", own_mask, ones, 0),
        ("tool_mask", tool_mask, ones, 1),
    ):
        before = torch.zeros_like(own[sources]) if name == "tool_mask" else own[sources]
        append(name, own, splice(before, gold, prefixes, lengths, fill), fill)
    for name in ("old_per_token_logps", "sampling_per_token_logps"):
        if name in inputs:
            gold = inputs["gold_logps"][sources, forms]
            append(name, inputs[name], splice(inputs[name][sources], gold, prefixes, lengths))
    if "importance_sampling_ratio" in inputs:
        ratio = inputs["importance_sampling_ratio"]  # per token, or per completion
        width = batch["completion_ids"].size(1) if ratio.size(1) > 1 else 1
        append("importance_sampling_ratio", ratio, ratio.new_ones(len(sources), width), 1)
    policy = own_mask * tool_mask
    sizes = policy.sum(1).clamp(min=1)
    scale, row_scale = 1.0, torch.ones_like(prefixes, dtype=torch.float32)
    if loss_type == "bnpo":  # a mean over all tokens
        scale = 1 + (lengths.sum() / policy.sum().clamp(min=1)).item()
    elif loss_type in ("grpo", "sapo", "dr_grpo", "luspo"):  # a mean over the rows
        scale = 1 + len(sources) / len(policy)
        if loss_type in ("grpo", "sapo"):  # of the mean of each
            row_scale = lengths / sizes[sources]
    gold_advantages = (inputs["gold_advantages"][sources, forms] * row_scale).unsqueeze(1)
    rows = gold_advantages.expand(-1, batch["completion_ids"].size(1))
    append("advantages", scale * inputs["advantages"], scale * rows)
    return batch
