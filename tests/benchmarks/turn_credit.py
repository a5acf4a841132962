"""
Bias and variance of the gradient with turn rewards, on a dialogue whose exact gradient is enumerable.

    make bench-turns

prints the tables of docs/results.md. Takes about five minutes on one core.
"""

import numpy as np
from tqdm import tqdm

from tests.credit.turn_toy import ESTIMATORS, GENERATIONS, Toy


BATCHES, GROUPS = 100, 500
NAMES = {
    "turn_credit": "turn credit (ours)",
    "turn_credit_without_guess": "ours, without the guess from whole completions",
    "index_wise": "index-wise, centred",
    "index_wise_scaled": "index-wise, centred and scaled",
    "outcome_only": "sum of the rewards alone (GRPO)",
}


def figures(means: np.ndarray, squares: np.ndarray, exact: np.ndarray, unit: float) -> np.ndarray:
    """
    Projection on the exact gradient, squared bias, and variance, from batches of groups.

    Args:
        means (`np.ndarray` of shape `(N, P)`):
            Mean gradient of every batch.
        squares (`np.ndarray` of shape `(N,)`):
            Mean squared length of the gradient of every batch.
        exact (`np.ndarray` of shape `(P,)`):
            The exact gradient.
        unit (`float`):
            What the variance is divided by.
    """
    away, size, length = means - exact, exact @ exact, len(means)
    # The square of the mean without its own noise: products of different batches.
    bias = ((away.sum(0) ** 2).sum() - (away**2).sum()) / (length * (length - 1))
    mean_squared = ((means.sum(0) ** 2).sum() - (means**2).sum()) / (length * (length - 1))
    return np.array([means.mean(0) @ exact / size, bias / size, (squares.mean() - mean_squared) / unit])


def with_intervals(means: np.ndarray, squares: np.ndarray, exact: np.ndarray, unit: float) -> list[str]:
    """The figures with 95 % intervals by the jackknife over batches."""
    value = figures(means, squares, exact, unit)
    without = [np.arange(len(means)) != batch for batch in range(len(means))]
    each = np.array([figures(means[rest], squares[rest], exact, unit) for rest in without])
    error = np.sqrt((len(means) - 1) * each.var(0))
    return [f"{v:.3f} [{v - 1.96 * e:.3f}, {v + 1.96 * e:.3f}]" for v, e in zip(value, error, strict=True)]


def main() -> None:
    """Print the tables."""
    for pays_rest in (False, True):
        print(f"\n{'The second turn pays what is missing' if pays_rest else 'The second turn pays 1 or 2'}: ", end="")
        print_table(Toy(pays_rest=pays_rest))


def print_table(toy: Toy) -> None:
    """Print the table of a toy."""
    exact = toy.exact_gradient()
    collected = {}
    for estimator in ESTIMATORS:
        means, squares = [], []
        for batch in tqdm(range(BATCHES), desc=estimator):
            gradients = toy.gradients(estimator, GROUPS, seed=(1, batch))
            means.append(gradients.mean(0))
            squares.append((gradients**2).sum(1).mean())
        collected[estimator] = np.array(means), np.array(squares)
    unit = figures(*collected["outcome_only"], exact, 1.0)[2]
    print(f"{BATCHES * GROUPS:,} groups of {GENERATIONS}; exact gradient of length {np.linalg.norm(exact):.4f}\n")
    print("| estimator | projection on the exact gradient | squared bias | variance |\n| --- | --- | --- | --- |")
    print("| exact gradient, by enumeration | 1 | 0 | 0 |")
    for estimator, name in NAMES.items():
        print(f"| {name} | {' | '.join(with_intervals(*collected[estimator], exact, unit))} |")


if __name__ == "__main__":
    main()
