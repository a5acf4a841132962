r"""
Projected gradients of the LM head, for policies whose whole gradients are too large.

With hidden states \(h_t\) and logits \(W h_t / \tau\), the gradient of a token's log-probability with respect to the
head is an outer product, \(\nabla_W \log \pi(y_t) = (e_{y_t} - p_t)\, h_t^\top / \tau\). Random matrices \(P\) (k x V)
and \(Q\) (k x d), whose entries have mean 0 and variance 1/k, keep inner products in the mean:

$$ \mathbb{E} \langle P A Q^\top, P B Q^\top \rangle = \langle A, B \rangle . $$

So a token needs the two vectors \(P (e_{y_t} - p_t)\) and \(Q h_t\) of length k, from one forward pass without a
backward one, and the gradient of any weighting is a k x k matrix. Only the head is covered: what a rule does to the
gradients of the layers below remains unseen.
"""

from typing import Any, NamedTuple

import torch

from .groups import Group
from .tokens import completion_logits


class HeadFeatures(NamedTuple):
    """
    Factors of the tokens' projected gradients.

    Args:
        scores (`torch.Tensor` of shape `(G, T, k)`):
            Projected scores.
        hidden (`torch.Tensor` of shape `(G, T, k)`):
            Projected hidden states, divided by the temperature.
    """

    scores: torch.Tensor
    hidden: torch.Tensor


def projection(size: int, dimension: int, generator: torch.Generator) -> torch.Tensor | None:
    """
    A matrix of random signs that keeps inner products in the mean.

    Args:
        size (`int`):
            Length of the vectors.
        dimension (`int`):
            `k`, their length after the projection.
        generator (`torch.Generator`):
            Where the signs come from.

    Returns:
        `torch.Tensor` of shape `(size, k)`, or `None` if the vectors have at most `k` entries, and need no projection.
    """
    if size <= dimension:
        return None
    signs = torch.randint(0, 2, (size, dimension), generator=generator, dtype=torch.int8)
    return (2.0 * signs - 1.0) / dimension**0.5


class HeadProjector:
    """
    Reads the factors of the LM head's gradients off a forward pass.

    Args:
        model:
            A causal language model whose logits are its output embeddings times the hidden states.
        dimension (`int`):
            `k`.
        seed (`int`):
            Of the random matrices.

    Raises:
        ValueError: if the model has no output embeddings.
    """

    def __init__(self, model: Any, dimension: int, seed: int) -> None:
        self._model = model
        self._head = model.get_output_embeddings()
        if self._head is None:
            raise ValueError("the model has no LM head (get_output_embeddings): diagnose with exact gradients")
        generator = torch.Generator().manual_seed(seed)
        rows, columns = self._head.weight.shape
        matrices = projection(rows, dimension, generator), projection(columns, dimension, generator)
        device = self._head.weight.device
        self._of_scores, self._of_hidden = (None if matrix is None else matrix.to(device) for matrix in matrices)

    def __call__(self, group: Group, temperature: float) -> tuple[torch.Tensor, HeadFeatures]:
        """
        Forward pass of a group.

        Args:
            group ([`Group`]):
                Prompt and completions.
            temperature (`float`):
                Of the sampling.

        Returns:
            `tuple[torch.Tensor, HeadFeatures]`: logits of shape `(G, T, V)`, and the factors.

        Raises:
            ValueError: if the model changes the logits behind its head.
        """
        seen: list[torch.Tensor] = []
        handle = self._head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = completion_logits(self._model, group, temperature)
            length = logits.size(1)
            hidden = seen[0][:, -length - 1 : -1]
            last = self._head(hidden[:, -1]).float() / temperature
        finally:
            handle.remove()
        if not torch.allclose(last, logits[:, -1], rtol=1e-2, atol=1e-2):
            raise ValueError(
                "the model scales or caps the logits behind its LM head, so the head's gradients are not known in "
                "closed form: diagnose with exact gradients"
            )
        scores = -logits.softmax(-1)
        scores.scatter_add_(-1, group.completion_ids.unsqueeze(-1), torch.ones_like(scores[..., :1]))
        hidden = hidden.float() / temperature
        return logits, HeadFeatures(
            scores if self._of_scores is None else scores @ self._of_scores,
            hidden if self._of_hidden is None else hidden @ self._of_hidden,
        )


def head_gradients(features: HeadFeatures, weights: torch.Tensor) -> torch.Tensor:
    """
    Projected gradients of the LM head.

    Args:
        features ([`HeadFeatures`]):
            Factors of a group's tokens.
        weights (`torch.Tensor` of shape `(X, G, T)`):
            Weights of the tokens.

    Returns:
        `torch.Tensor` of shape `(X, k * k)`
    """
    return torch.einsum("xgt,gta,gtb->xab", weights, features.scores, features.hidden).flatten(1)
