r"""
Turn rewards: segments that are the turns of a dialogue.

A completion \(i\) has the assistant turns \(1 \dots K_i\), and turn \(k\) is paid \(r_{i,k}\) once its tool results
are known. The policy decides the number of turns, by going on or stopping. With \(R_i = \sum_k r_{i,k}\) and
\(\nabla_{i,k}\) the gradient of the log-probability of the turn's tokens,

$$
\nabla \mathbb{E}[R] = \mathbb{E} \sum_{k \le K_i} \nabla_{i,k} \, (G_{i,k} - b_{i,k}), \qquad
G_{i,k} = \sum_{l=k}^{K_i} r_{i,l},
$$

for every baseline \(b_{i,k}\) that is a function of what was decided before the turn, by the identity at the head of
[`~rest_trl.credit.advantages`]: \(\sum_{l<k} r_{i,l}\) is decided when the turn starts, so it drops out. Whether the
turn is reached is also decided before it. Two such baselines therefore need no value model. One is the mean of
\(G_{j,k}\) over those other completions that *reach turn k*, of which there may be few. The other is the guess that
the completion will get the mean reward of all others, \(\bar R - \sum_{l<k} r_{i,l}\): it averages over many, but
ignores that turn \(k\) is reached (alone it gives GRPO's advantage). Ours shrinks the mean towards it, as if it
were two more completions,

$$
b_{i,k} = \frac{2 \, (\bar R_{-i} - \sum_{l<k} r_{i,l}) + \sum_{j \ne i,\, K_j \ge k} G_{j,k}}{2 + |\{j \ne i: K_j \ge
k\}|}.
$$

On both toys of `docs/results.md` its variance is less than that of the guess alone, or near it. Comparing only those
that have earned as much before the turn loses more by having few completions than it gains. Where no other completion
reaches the turn, its tokens have the advantage of the whole completion.

It is *not* such a baseline to centre every turn's reward on the mean \(m_l\) of the \(l\)-th rewards and to add up
what follows, \(\sum_{l=k}^{K_i} (r_{i,l} - m_l)\). The number of terms that this subtracts is the number of turns from
\(k\) on, which the very tokens that get the advantage decide. The mean of its gradient is the gradient of

$$
\mathbb{E}[R] - \sum_{l} m_l \, P(K \ge l)
$$

with \(m_l\) held fixed: every turn is charged what turns of its number earn on average, so stopping looks better than
it is wherever later turns are paid. The first turn, which all completions have, is charged a constant; hence dialogues
of equal length do not show the fault. Dividing by the deviation of the \(l\)-th rewards would also change the weights
of the turns relative to each other.

A discount below 1 credits a turn with \(\sum_{l \ge k} d^{l-k} r_{i,l}\). Its baseline is only the mean over those
that reach the turn, since what is left of a mean reward is no guess of a discounted sum. The baseline adds no bias to
this definition, but that is no longer the gradient of \(\mathbb{E}[R]\): the user chooses to assume that a turn has
more to do with what follows soon.
"""

from collections.abc import Sequence

from .segments import Segment


_SHRINKAGE = 2.0  # completions that the guess counts as; from 1 to 4 the variance is much the same


def rewards_to_go(rewards: Sequence[float], discount: float) -> list[float]:
    """
    The discounted sum of the rewards of each turn and of all later ones.

    Args:
        rewards (`Sequence[float]` of length `K`):
            Rewards of the turns.
        discount (`float`):
            Factor that a reward is multiplied by once for every turn that it lies ahead.

    Returns:
        `list[float]` of length `K`

    Example:

    ```python
    >>> rewards_to_go([1.0, 0.0, 4.0], 0.5)
    [2.0, 2.0, 4.0]

    ```
    """
    ahead, values = 0.0, []
    for reward in reversed(rewards):
        ahead = reward + discount * ahead
        values.append(ahead)
    return values[::-1]


def turn_segments(
    rewards: Sequence[float] | float, spans: Sequence[tuple[int, int]], discount: float = 1.0
) -> list[Segment]:
    """
    A segment for every turn, see the head of this module.

    Args:
        rewards (`Sequence[float]` of length `K`, or `float`):
            Rewards of the turns. A single number is decided at the end of the last turn, if there is one, and is
            not discounted.
        spans (`Sequence[tuple[int, int]]` of length `K`):
            Column of each turn's first token, and the column after its last.
        discount (`float`, *optional*, defaults to `1.0`):
            Factor that a reward is multiplied by once for every turn that it lies ahead.

    Returns:
        `list[Segment]` of length `K`

    Example:

    ```python
    >>> [segment.decided for segment in turn_segments([1.0, 2.0, 3.0], [(0, 4), (6, 9), (12, 13)])]
    [0.0, 1.0, 3.0]

    ```
    """
    if not isinstance(rewards, Sequence):
        rewards, discount = [0.0] * (len(spans) - 1) + [float(rewards)] * bool(spans), 1.0
    total, before = sum(rewards), 0.0
    shrinkage = _SHRINKAGE if discount == 1 else 0.0
    segments = []
    turns = zip(spans, rewards, rewards_to_go(rewards, discount), strict=True)
    for number, ((start, stop), reward, to_go) in enumerate(turns):
        segments.append(Segment(start, stop, number, before, reward, total - before - to_go, shrinkage))
        before += reward
    return segments
