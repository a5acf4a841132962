"""
How often the intervals of `rest_trl.lab.evaluation` cover the truth:

    python -m tests.evaluation.simulation --simulations 10000

Without clusters the coverage of an accuracy is exact, all else is simulated: every cluster draws its own probabilities
from a beta or Dirichlet distribution, so that two samples of a cluster correlate as wanted.
"""

import argparse
from unittest.mock import patch

import numpy as np
from scipy import stats

from rest_trl.lab.intervals import accuracy_interval, compare_paired, minimum_detectable_difference


GAINED, LOST = 0, 1  # kinds of paired outcomes
SHARES = (0.1, 0.5, 0.7, 0.9)
CORRELATIONS = (0.0, 0.3, 0.6)
SIZES = (67, 131, 200, 399, 597, 1053)
# Shares of samples that only the second and only the first of two models answers rightly.
DISCORDANT = ((0.05, 0.05), (0.08, 0.02), (0.15, 0.15), (0.2, 0.1))
# Sizes of the clusters: how many there are of 1, 2, ... samples. API-Bank's are dialogues.
CLUSTERS = {
    "api_bank level 1": (91, 75, 32, 8, 6),
    "api_bank level 2": (23, 22),
    "api_bank level 3": (0, 34, 6, 5, 5),
    "api_bank": (114, 131, 38, 13, 11),
    "bfcl multi_turn": (0, 0, 0, 200),
}


def cluster_sizes(name):
    return np.repeat(np.arange(1, len(CLUSTERS[name]) + 1), CLUSTERS[name])


def exact_coverage(n, share):
    """Coverage of the accuracy's interval for `n` independent samples: the sum over all outcomes."""
    clusters, covered = np.arange(n), 0.0
    for right, probability in enumerate(stats.binom.pmf(np.arange(n + 1), n, share)):
        if probability > 1e-9:
            interval = accuracy_interval(np.arange(n) < right, clusters)
            covered += probability * (interval.low <= share <= interval.high)
    return covered


def draw(sizes, shares, correlation, rng):
    """Outcomes of every sample, of `len(shares)` kinds, cluster by cluster."""
    kinds = np.arange(len(shares))
    if correlation == 0:
        return rng.choice(kinds, size=sizes.sum(), p=shares)
    own = rng.dirichlet(np.asarray(shares) * (1 - correlation) / correlation, size=len(sizes))
    bounds = np.repeat(np.cumsum(own, axis=1), sizes, axis=0)
    return np.minimum((rng.random((sizes.sum(), 1)) > bounds).sum(axis=1), kinds[-1])


def accuracy_coverage(sizes, share, correlation, simulations, seed=0):
    """Share of simulated runs in which the accuracy's interval covers the true accuracy."""
    rng, clusters, covered = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes), 0
    for _ in range(simulations):
        interval = accuracy_interval(draw(sizes, (share, 1 - share), correlation, rng) == 0, clusters)
        covered += interval.low <= share <= interval.high
    return covered / simulations


def paired_runs(sizes, gained, lost, correlation, simulations, seed=0):
    """Comparisons of two simulated models whose accuracies differ by `gained - lost`."""
    rng, clusters = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    # It takes most of the time of a comparison and says nothing of the interval.
    with patch("rest_trl.lab.intervals.minimum_detectable_difference"):
        for _ in range(simulations):
            kinds = draw(sizes, (gained, lost, 1 - gained - lost), correlation, rng)
            yield compare_paired(kinds == LOST, kinds == GAINED, clusters)


def paired_coverage(sizes, gained, lost, correlation, simulations, seed=0):
    """Share of simulated pairs in which the interval of the difference covers the true difference, and of p < 0.05."""
    covered = significant = 0
    for comparison in paired_runs(sizes, gained, lost, correlation, simulations, seed):
        covered += comparison.difference.low <= gained - lost <= comparison.difference.high
        significant += comparison.cluster_p < 0.05
    return covered / simulations, significant / simulations


def power(n, discordant, simulations, seed=0):
    """Share of simulated pairs with p < 0.05 at the minimum detectable difference of `n` independent samples."""
    difference = minimum_detectable_difference(n, discordant)
    gained, lost = (discordant + difference) / 2, (discordant - difference) / 2
    return paired_coverage(np.ones(n, dtype=int), gained, lost, 0.0, simulations, seed)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=10000)
    simulations = parser.parse_args().simulations
    print("accuracy, independent samples (exact)")
    for n in SIZES:
        print(f"  n {n:5}", *(f"p {share}: {100 * exact_coverage(n, share):.1f}" for share in SHARES), sep="  ")
    print(f"accuracy, clusters ({simulations} simulations)")
    for name in CLUSTERS:
        for correlation in CORRELATIONS:
            found = [accuracy_coverage(cluster_sizes(name), share, correlation, simulations) for share in SHARES]
            cells = [f"p {share}: {100 * value:.1f}" for share, value in zip(SHARES, found, strict=True)]
            print(f"  {name:17} correlation {correlation}", *cells, sep="  ", flush=True)
    print(f"paired difference: covered / significant ({simulations} simulations)")
    cases = [(f"n {n}", np.ones(n, dtype=int), 0.0) for n in SIZES]
    cases += [(name, cluster_sizes(name), correlation) for name in CLUSTERS for correlation in CORRELATIONS]
    for name, sizes, correlation in cases:
        cells = []
        for gained, lost in DISCORDANT:
            covered, significant = paired_coverage(sizes, gained, lost, correlation, simulations)
            cells.append(f"{gained}-{lost}: {100 * covered:.1f} / {100 * significant:.1f}")
        print(f"  {name:17} correlation {correlation}", *cells, sep="  ", flush=True)
    print(f"power at the minimum detectable difference ({simulations} simulations)")
    for n in (*SIZES, 800):
        cells = []
        for discordant in (0.1, 0.2, 0.3):
            difference = minimum_detectable_difference(n, discordant)
            cells.append(
                f"discordant {discordant}: {100 * difference:.1f} points, {power(n, discordant, simulations):.3f}"
                if difference is not None
                else f"discordant {discordant}: none"
            )
        print(f"  n {n:5}", *cells, sep="  ", flush=True)


if __name__ == "__main__":
    main()
