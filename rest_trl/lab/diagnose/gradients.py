r"""
Gradients of groups: exact ones of all trainable parameters, in a file while they are compared, and projected ones of
the LM head, for policies whose whole gradients are too large.

With hidden states \(h_t\) and logits \(W h_t / \tau\), the gradient of a token's log-probability with respect to the
head is an outer product, \(\nabla_W \log \pi(y_t) = (e_{y_t} - p_t)\, h_t^\top / \tau\). Random matrices \(P\) (k x V)
and \(Q\) (k x d), whose entries have mean 0 and variance 1/k, keep inner products in the mean:

$$ \mathbb{E} \langle P A Q^\top, P B Q^\top \rangle = \langle A, B \rangle . $$

So a token needs the two vectors \(P (e_{y_t} - p_t)\) and \(Q h_t\) of length k, from one forward pass without a
backward one, and the gradient of any weighting is a k x k matrix. Only the head is covered: what a rule does to the
gradients of the layers below remains unseen.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .token_weights import Group, completion_logits


def trainable(model: Any) -> list[torch.nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextmanager
def in_evaluation(model: Any) -> Iterator[None]:
    """Switch dropout off, so that no random numbers are drawn, and leave the model as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def log_probs(logits: torch.Tensor, completion_ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of sampled tokens, with their graph."""
    return logits.log_softmax(-1).gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1)


def flat_gradient(outputs: torch.Tensor, parameters: Sequence[torch.nn.Parameter], weights: Any) -> torch.Tensor:
    """
    Gradient of a weighted sum of outputs as one float32 vector, without touching `grad` of the parameters; the graph
    is kept.
    """
    gradients = torch.autograd.grad(
        outputs, parameters, grad_outputs=weights, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.detach().float().flatten() for gradient in gradients])


@contextmanager
def exact_gradients(
    model: Any, groups: Iterable[Group], weights: Sequence[torch.Tensor], temperature: float, autocast: Any
) -> Iterator[torch.Tensor]:
    """
    Gradients of every group under every weighting: one forward pass a group, and a backward pass for each weighting.

    The weights are of shape `(X, G, T)` for each of the `N` groups. The gradients, of shape `(N, X, P)` and float32,
    lie in a temporary file that is removed at the end.
    """
    parameters = trainable(model)
    shape = len(weights), len(weights[0]), sum(parameter.numel() for parameter in parameters)
    with tempfile.TemporaryDirectory(prefix="rest-trl-diagnose-") as directory:
        size = shape[0] * shape[1] * shape[2]
        file = torch.from_file(str(Path(directory) / "gradients"), shared=True, size=size, dtype=torch.float32)
        vectors = file.view(shape)
        with in_evaluation(model):
            for group, of_group, place in zip(groups, weights, vectors, strict=True):
                with torch.enable_grad(), autocast():
                    outputs = log_probs(completion_logits(model, group, temperature), group.completion_ids)
                for weighting, vector in zip(of_group, place, strict=True):
                    if weighting.any():  # otherwise the gradient is 0, as the new file already is
                        vector.copy_(flat_gradient(outputs, parameters, weighting))
        yield vectors


class HeadFeatures(NamedTuple):
    """Factors of the tokens' projected gradients: scores, and hidden states over the temperature, `(G, T, k)` each."""

    scores: torch.Tensor
    hidden: torch.Tensor


def projection(size: int, dimension: int, generator: torch.Generator) -> torch.Tensor | None:
    """
    A matrix of random signs, of shape `(size, dimension)`, that keeps inner products in the mean; `None` for vectors
    that are short enough.
    """
    if size <= dimension:
        return None
    signs = torch.randint(0, 2, (size, dimension), generator=generator, dtype=torch.int8)
    return (2.0 * signs - 1.0) / dimension**0.5


class HeadProjector:
    """
    Reads the factors of the LM head's gradients off a forward pass of a causal language model whose logits are its
    output embeddings times the hidden states.

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
        Logits of shape `(G, T, V)`, and the factors.

        Raises:
            ValueError: if the model changes the logits after its head.
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
                "the model scales or caps the logits after its LM head, so the head's gradients are not known in "
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
    """Projected gradients of the LM head, of shape `(X, k * k)`, for weights of shape `(X, G, T)`."""
    return torch.einsum("xgt,gta,gtb->xab", weights, features.scores, features.hidden).flatten(1)
