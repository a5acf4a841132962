"""A dialogue of at most two turns of which every gradient can be written down, and estimators of its gradient."""

import itertools

import numpy as np
import torch

from rest_trl.credit import credited_advantages
from rest_trl.credit.turns import turn_segments


CHOICES, WIDTH = 3, 2  # choices per token, tokens per turn
STOP = 2  # as second token of the first turn, ends the dialogue
GENERATIONS = 8
ESTIMATORS = ("turn_credit", "turn_credit_without_guess", "index_wise", "index_wise_scaled", "outcome_only")


class Toy:
    """
    A policy with a table of logits for every prefix.

    The first turn pays 1 if its first token is 0. Its second token may end the dialogue. The second turn pays 1 for
    being reached and 1 more if its first token is 0; and the dialogue as a whole pays 1, as its outcome, if the second
    token of the last turn is 0.

    With `pays_rest` a second turn whose first token is 0 pays what is missing to 3, and any other one nothing: the
    less a dialogue has earned, the more is left.
    """

    def __init__(self, seed=0, pays_rest=False):
        self.pays_rest = pays_rest
        prefixes = [p for n in range(2 * WIDTH) for p in itertools.product(range(CHOICES), repeat=n)]
        rows = {prefix: row for row, prefix in enumerate(prefixes) if STOP not in prefix[WIDTH - 1 : WIDTH]}
        logits = np.random.default_rng(seed).normal(size=(len(prefixes), CHOICES))
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        self.dialogues = [
            tokens
            for length in (WIDTH, 2 * WIDTH)
            for tokens in itertools.product(range(CHOICES), repeat=length)
            if (tokens[WIDTH - 1] == STOP) == (length == WIDTH)
        ]
        self.lengths = np.array([len(tokens) for tokens in self.dialogues])
        self.probabilities = np.ones(len(self.dialogues))
        # Gradients of the log-probability of every token of every dialogue with respect to all logits.
        self.scores = np.zeros((len(self.dialogues), 2 * WIDTH, len(prefixes) * CHOICES))
        for index, tokens in enumerate(self.dialogues):
            for position, token in enumerate(tokens):
                row = rows[tokens[:position]]
                self.probabilities[index] *= probabilities[row, token]
                self.scores[index, position, row * CHOICES : (row + 1) * CHOICES] = -probabilities[row]
                self.scores[index, position, row * CHOICES + token] += 1
        self.turn_rewards = [self._turn_rewards(tokens) for tokens in self.dialogues]
        self.outcomes = np.array([float(tokens[-1] == 0) for tokens in self.dialogues])
        self.spans = [[(start, start + WIDTH) for start in range(0, n, WIDTH)] for n in self.lengths]

    def _turn_rewards(self, tokens):
        first = float(tokens[0] == 0)
        if len(tokens) == WIDTH:
            return [first]
        is_right = tokens[WIDTH] == 0
        return [first, (3 - first) * is_right if self.pays_rest else 1.0 + is_right]

    def exact_gradient(self, discount=1.0):
        """By enumeration: the mean of the score of every turn times what follows it."""
        total = np.zeros(self.scores.shape[-1])
        for index, rewards in enumerate(self.turn_rewards):
            for number, (start, stop) in enumerate(self.spans[index]):
                ahead = sum(discount**n * reward for n, reward in enumerate(rewards[number:])) + self.outcomes[index]
                total += self.probabilities[index] * ahead * self.scores[index, start:stop].sum(0)
        return total

    def gradients(self, estimator, num_groups, seed=0, discount=1.0, generations=GENERATIONS):
        """The estimate of every group, of shape (num_groups, number of logits)."""
        drawn = np.random.default_rng(seed).choice(
            len(self.dialogues), size=(num_groups, generations), p=self.probabilities / self.probabilities.sum()
        )
        advantages = self.advantages(estimator, drawn, discount).reshape(num_groups, generations, -1)
        return (
            np.stack([np.einsum("gt,gtp->p", a, self.scores[row]) for a, row in zip(advantages, drawn, strict=True)])
            / generations
        )

    def advantages(self, estimator, drawn, discount=1.0):
        """Advantages per token of the drawn dialogues, of shape (number of dialogues, tokens)."""
        if estimator.startswith("index_wise"):
            return self._index_wise(drawn, scaled=estimator == "index_wise_scaled")
        flat, generations = drawn.ravel(), drawn.shape[1]
        rewards = torch.tensor([[sum(self.turn_rewards[i]), self.outcomes[i]] for i in flat])
        totals = rewards.sum(1).view(drawn.shape)
        segments = [[[], []] for _ in flat]
        if estimator != "outcome_only":
            segments = [[turn_segments(self.turn_rewards[i], self.spans[i], discount), []] for i in flat]
        if estimator == "turn_credit_without_guess":
            segments = [[[segment._replace(shrinkage=0.0) for segment in turns], []] for turns, _ in segments]
        return credited_advantages(
            (totals - totals.mean(1, keepdim=True)).flatten(),
            rewards,
            torch.ones(2),
            segments,
            generations,
            2 * WIDTH,
            scale_rewards="none",
            leave_one_out=True,
        ).numpy()

    def _index_wise(self, drawn, scaled):
        """Centred rewards of turns of the same number, added up from a turn on, beside the centred outcome."""
        values = np.zeros((*drawn.shape, 2))
        for number in range(2):
            has_turn = self.lengths[drawn] > number * WIDTH
            rewards = np.array([[([*self.turn_rewards[i], 0.0])[number] for i in group] for group in drawn])
            counts = has_turn.sum(1, keepdims=True)
            # The mean of the others, so that a completion's own share in the mean is not what makes the difference.
            others = np.maximum(counts - 1, 1)
            means = ((rewards * has_turn).sum(1, keepdims=True) - rewards) / others
            centred = np.where(has_turn, rewards - means, 0.0)
            if scaled:
                deviation = np.sqrt((centred**2).sum(1, keepdims=True) / np.maximum(counts, 1))
                centred = centred / (deviation + 1e-4)
            values[..., number] = centred
        outcomes = self.outcomes[drawn]
        others = (outcomes.sum(1, keepdims=True) - outcomes) / (drawn.shape[1] - 1)
        ahead = np.stack([values.sum(2), values[..., 1]], 2) + (outcomes - others)[..., None]
        return ahead.repeat(WIDTH, axis=2).reshape(-1, 2 * WIDTH)
