"""Intervals of estimates from independent groups."""

from typing import NamedTuple

import torch
from scipy import stats


LEVEL = 0.95


class Estimates(NamedTuple):
    """
    Estimates with their intervals, tensors of the same shape; NaN where there is no estimate or no interval.
    """

    value: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


def jackknife(
    value: torch.Tensor, without_each: torch.Tensor, level: float = LEVEL, positive: bool = False
) -> Estimates:
    r"""
    Student's interval with the jackknife's standard error.

    $$ s^2 = \frac{N - 1}{N} \sum_g (\hat\theta_{(g)} - \bar\theta)^2, \qquad \hat\theta \pm t_{N - 1}\, s $$

    with \(\hat\theta_{(g)}\) the estimate without group \(g\) and \(\bar\theta\) their mean.

    Args:
        value (`torch.Tensor` of shape `(...)`):
            Estimates from all groups.
        without_each (`torch.Tensor` of shape `(N, ...)`):
            Estimates without each of the groups.
        level (`float`, *optional*, defaults to `0.95`):
            Nominal coverage.
        positive (`bool`, *optional*, defaults to `False`):
            Whether only positive values make sense, as for variances and their ratios: the interval is then computed
            for the logarithm, and is NaN where an estimate is not positive.

    Returns:
        [`Estimates`]

    Example:

    Of a mean it is Student's interval: here of 1, 2 and 3.

    ```python
    >>> jackknife(torch.tensor(2.0), torch.tensor([2.5, 2.0, 1.5])).low
    tensor(-0.4841)

    ```
    """
    if positive:
        logarithms = jackknife(value.log(), without_each.log(), level)
        return Estimates(value, logarithms.low.exp(), logarithms.high.exp())
    count = len(without_each)
    error = ((count - 1) * (without_each - without_each.mean(0)).square().mean(0)).sqrt()
    half_width = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    return Estimates(value, value - half_width, value + half_width)
