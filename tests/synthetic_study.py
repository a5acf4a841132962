"""Tables as studies make them, with known figures."""

import numpy as np
import pandas as pd


def make_results(seeds=8, steps=50, gain=0.02, evaluations=2, fast=1.0, noise=0.01):
    """
    Two arms whose accuracies rise on a line.

    The baseline rises from .1 by .004 a step. The arm `better` rises `fast` times as fast, and its held-out accuracy
    is higher by `gain` on average; the difference varies by at most .01 over seeds. A step of it takes 3 seconds, one
    of the baseline 2. With more than two evaluations, held-out accuracies rise as the training's do.
    """
    rng, rows = np.random.default_rng(0), []
    for arm, rate, offset in (("base", 1.0, 0.0), ("better", fast, gain)):
        for seed in range(seeds):
            for step in range(1, steps + 1):
                row = {
                    "arm": arm,
                    "seed": seed,
                    "step": step,
                    "rollouts": 64 * step,
                    "generated_tokens": 64 * 80 * step,
                    "rest/reward/exact": 0.1 + 0.004 * rate * step + noise * rng.normal(),
                    "step_time": 2.0 if arm == "base" else 3.0,
                    "grad_norm": 1.0 / step + 0.1,
                    **{f"rest/entropy/{region}": 0.3 for region in ("parameters", "tool_name", "reasoning")},
                }
                if step in {round(steps * share / evaluations) for share in range(1, evaluations + 1)}:
                    learnt = 0.004 * rate * step if evaluations > 2 else 0.0
                    row["held_out/exact"] = 0.3 + learnt + offset + (0.01 * (-1) ** seed if offset else 0.0)
                rows.append(row)
    return pd.DataFrame(rows)
