"""A rule of a user's own, for the tests of its arguments."""

import torch


def rule(mask, scale=1.0, **kwargs):
    return torch.full(mask.shape, scale)
