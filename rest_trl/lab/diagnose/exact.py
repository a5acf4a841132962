"""Exact gradients of all trainable parameters, in a file while they are compared."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .groups import Group
from .tokens import completion_logits


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
    """
    Log-probabilities of sampled tokens.

    Args:
        logits (`torch.Tensor` of shape `(G, T, V)`):
            Logits.
        completion_ids (`torch.Tensor` of shape `(G, T)`):
            The tokens.

    Returns:
        `torch.Tensor` of shape `(G, T)`, with its graph.
    """
    return logits.log_softmax(-1).gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1)


def flat_gradient(outputs: torch.Tensor, parameters: Sequence[torch.nn.Parameter], weights: Any) -> torch.Tensor:
    """
    Gradient of a weighted sum of outputs, without touching `grad` of the parameters; the graph is kept.

    Args:
        outputs (`torch.Tensor`):
            What depends on the parameters.
        parameters (`Sequence[torch.nn.Parameter]`):
            `P` numbers in all.
        weights (`torch.Tensor`):
            Of the shape of the outputs.

    Returns:
        `torch.Tensor` of shape `(P,)`, float32.
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

    Args:
        model:
            The policy.
        groups (`Iterable[Group]` of length `N`):
            The groups.
        weights (`Sequence[torch.Tensor]` of length `N`):
            Weights of the tokens, of shape `(X, G, T)`.
        temperature (`float`):
            Of the sampling.
        autocast (`Callable`):
            Context of the forward pass.

    Yields:
        `torch.Tensor` of shape `(N, X, P)`, float32, in a temporary file that is removed at the end.
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
