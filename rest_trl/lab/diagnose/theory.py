r"""
The terms of Theorem 1 of the paper (arXiv 2509.21826), measured one by one.

One completion's gradient is \(g_i = A_i u_i\), \(u_i = \sum_t a_t \nabla \log \pi(y_t)\), with
\(a_t = w_t / T_i\), and \(\nabla \log \pi(y_t) = J_t^\top s_t\) with \(J_t\) the Jacobian of the logits and
\(s_t\) the score. The theorem bounds its variance in three steps:

$$
\operatorname{tr} \operatorname{Cov} g_i
\overset{(1)}{\le} \mathbb{E} \big[ A_i^2 \sum_t a_t^2 \lVert J_t^\top s_t \rVert^2 \big]
\overset{(2)}{=} \mathbb{E} [A_i^2]\; \mathbb{E} \sum_t a_t^2 \lVert J_t^\top s_t \rVert^2
\overset{(3)}{\le} \mathbb{E} [A_i^2]\; \mathbb{E} \sum_t a_t^2 \lVert J_t \rVert_F^2 (1 - e^{-H_t}) .
$$

Step 1 holds if the gradients of tokens are orthogonal in the mean, step 2 if the advantage does not depend on them.
Both follow if the advantage is independent of the tokens, which no real advantage is, and \(a_t\) is constant, as with
completions of one length. Step 3 is the Cauchy-Schwarz inequality and Lemma 2. It is loose by about the ratio of the
squared Frobenius norm of the Jacobian to its square along the score.

None of the sums over tokens needs a backward pass for each token. With independent random signs \(\sigma_t\),
\(\mathbb{E}_\sigma \lVert \sum_t \sigma_t a_t J_t^\top s_t \rVert^2 = \sum_t a_t^2 \lVert J_t^\top s_t \rVert^2\);
with independent signs \(\varepsilon_{t, v}\) of all logits,
\(\mathbb{E}_\varepsilon \lVert \sum_t b_t J_t^\top \varepsilon_t \rVert^2 = \sum_t b_t^2 \lVert J_t \rVert_F^2\)
(Hutchinson's estimator).
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from ...regions import Region, to_regions
from .gradients import flat_gradient, in_evaluation, log_probs, trainable
from .moments import Estimates, of_sums
from .token_weights import Group, TokenFacts, completion_logits


class TheoremTerms(NamedTuple):
    """Means of the terms over the completions of each of `N` groups."""

    squares: torch.Tensor  # (N,), of the completion's gradient
    orthogonal: torch.Tensor  # (N,), the term after step 1
    advantages: torch.Tensor  # (N,), squared
    scores: torch.Tensor  # (N,), the sum after step 2, without the advantage
    bounds: torch.Tensor  # (N, R), the sum after step 3 over the tokens of each region, without the advantage
    weights: torch.Tensor  # (N, R), sum of `a` squared in each region: `bounds / weights` is a token's mean `beta`


class TheoremEstimates(NamedTuple):
    """Theorem 1, term by term."""

    steps: Estimates  # (4,), variance of a completion's gradient and the terms after each step; the last is the bound
    betas: Estimates  # (R,), mean `beta` of a token in each region, NaN where there is none


def theorem_estimates(terms: TheoremTerms, signal: float) -> TheoremEstimates:
    """Estimate the terms; the variance is the mean square minus `signal`, the squared norm of the mean gradient."""
    columns = torch.stack([*terms[:4], terms.bounds.sum(1)], 1)

    def steps(mean: torch.Tensor) -> torch.Tensor:
        squares, orthogonal, advantages, scores, bound = mean.unbind(-1)
        return torch.stack([squares - signal, orthogonal, advantages * scores, advantages * bound], -1)

    of_regions = torch.stack([terms.bounds, terms.weights], 1)
    return TheoremEstimates(
        of_sums(columns, steps),
        of_sums(of_regions, lambda mean: mean[..., 0, :] / mean[..., 1, :].where(mean[..., 1, :] > 0, torch.nan)),
    )


def random_signs(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Independent -1 and 1, float32."""
    return (2.0 * torch.randint(0, 2, tuple(shape), generator=generator) - 1.0).to(device)


def theorem_terms(
    model: Any,
    groups: Iterable[Group],
    facts: Iterable[TokenFacts],
    temperature: float,
    autocast: Any,
    generator: torch.Generator,
) -> TheoremTerms:
    """
    Measure the terms for GRPO's loss (`loss_type="grpo"`, all `w` 1). Each completion takes a backward pass for its
    gradient, one for its version with random signs, and one for the bound in each region.
    """
    parameters = trainable(model)
    rows = []
    with in_evaluation(model):
        for group, fact in zip(groups, facts, strict=True):
            sums = torch.zeros(4 + 2 * len(Region), dtype=torch.float64)
            for index in range(len(group.mask)):
                rows_of_one = slice(index, index + 1)
                single, bound = group.rows(rows_of_one), fact.bound[rows_of_one]
                sums += _completion_terms(model, single, bound, parameters, temperature, autocast, generator)
            rows.append(sums / len(group.mask))
    squares, orthogonal, advantages, scores, *of_regions = torch.stack(rows).T
    bounds, weights = torch.stack(of_regions, 1).split(len(Region), 1)
    return TheoremTerms(squares, orthogonal, advantages, scores, bounds, weights)


def _completion_terms(
    model: Any,
    group: Group,
    bound: torch.Tensor,
    parameters: Sequence[torch.nn.Parameter],
    temperature: float,
    autocast: Any,
    generator: torch.Generator,
) -> torch.Tensor:
    scale = group.mask.float() / group.mask.sum().clamp(min=1)
    advantage = group.advantages["completion"][0, 0].double()
    with torch.enable_grad(), autocast():
        logits = completion_logits(model, group, temperature)
        outputs = log_probs(logits, group.completion_ids)
    device = outputs.device

    def square(of: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return flat_gradient(of, parameters, weights).double().square().sum()

    whole = square(outputs, scale)
    scores = square(outputs, scale * random_signs(scale.shape, generator, device))
    regions = to_regions(group.part_ids)
    bounds, weights = torch.zeros(2, len(Region), dtype=torch.float64)
    for region in list(Region)[1:]:
        inside = scale * (regions == region)
        if inside.any():
            signs = random_signs(logits.shape, generator, device)
            bounds[region] = square(logits, signs * (inside * bound.sqrt()).unsqueeze(-1))
            weights[region] = inside.double().square().sum()
    terms = torch.stack([advantage**2 * whole, advantage**2 * scores, advantage**2, scores]).cpu()
    return torch.cat([terms, bounds, weights])
