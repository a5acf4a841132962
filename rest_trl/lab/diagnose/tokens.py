r"""
Facts of the policy's distribution at each sampled token: its entropy, the token's log-probability, and the squared
score of Lemma 2.

The score of a token with respect to the logits is \(s_t = e_{y_t} - p_t\), so its square is
\(\lVert s_t \rVert^2 = 1 - 2 p_{t, y_t} + \sum_v p_{t, v}^2\). Lemma 2 of the paper:

$$ \mathbb{E} \lVert s_t \rVert^2 = 1 - \sum_v p_{t, v}^2 \le 1 - e^{-H_t} . $$
"""

from typing import Any, NamedTuple

import torch

from .groups import Group


class TokenFacts(NamedTuple):
    """
    Facts of the tokens of one group; tensors of shape `(G, T)`.

    Args:
        entropies (`torch.Tensor`):
            `H`, in nats.
        log_probs (`torch.Tensor`):
            Log-probability of the sampled token.
        squares (`torch.Tensor`):
            Square of the sampled token's score.
        expected (`torch.Tensor`):
            Expectation of this square over the policy's distribution.
        bound (`torch.Tensor`):
            The bound of Lemma 2 on the expectation.
    """

    entropies: torch.Tensor
    log_probs: torch.Tensor
    squares: torch.Tensor
    expected: torch.Tensor
    bound: torch.Tensor


def completion_logits(model: Any, group: Group, temperature: float) -> torch.Tensor:
    """
    Logits that the completions' tokens were sampled from, without truncations such as `top_p`.

    Args:
        model:
            A causal language model.
        group ([`Group`]):
            Prompt and completions.
        temperature (`float`):
            What the logits are divided by.

    Returns:
        `torch.Tensor` of shape `(G, T, V)`, float32.
    """
    logits = model(
        input_ids=torch.cat([group.prompt_ids, group.completion_ids], 1),
        attention_mask=torch.cat([group.prompt_mask, group.completion_mask], 1),
        logits_to_keep=group.completion_ids.size(1) + 1,
        use_cache=False,
    ).logits
    return logits[:, :-1].float() / temperature


def token_facts(logits: torch.Tensor, completion_ids: torch.Tensor) -> TokenFacts:
    """
    Facts of sampled tokens, see the head of this module.

    Args:
        logits (`torch.Tensor` of shape `(G, T, V)`):
            Logits that the tokens were sampled from.
        completion_ids (`torch.Tensor` of shape `(G, T)`):
            The tokens.

    Returns:
        [`TokenFacts`]

    Example:

    A fair coin attains the lemma's bound.

    ```python
    >>> [round(fact.item(), 4) for fact in token_facts(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.long))]
    [0.6931, -0.6931, 0.5, 0.5, 0.5]

    ```
    """
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp()
    entropies = -(probs * log_probs).sum(-1)
    concentration = probs.square().sum(-1)
    chosen = log_probs.gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1)
    squares = 1 - 2 * chosen.exp() + concentration
    return TokenFacts(entropies, chosen, squares, 1 - concentration, -torch.expm1(-entropies))
