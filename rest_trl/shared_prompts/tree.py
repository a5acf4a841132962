"""The tree of what the rows of a micro-batch share, read off their ids alone."""

from dataclasses import dataclass, field

import numpy as np
import torch


# Tokens that a level of the tree must save: the calls of its attention cost as much as a few tokens.
MIN_SAVED = 16


@dataclass
class Family:
    """
    Segments with the same ancestors, which attention computes together.

    Args:
        context (`list[tuple[int, int]]`):
            Bounds of the ancestors in the packed row, from the root on.
        index (`torch.Tensor` of shape `(n, L)`):
            Places of the segments' tokens in the packed row, padded on the right with the segment's last place.
    """

    context: list[tuple[int, int]]
    index: torch.Tensor

    @property
    def context_length(self) -> int:
        return sum(end - start for start, end in self.context)


@dataclass
class PromptTree:
    """
    A micro-batch of `B` rows as one packed row of `N` tokens.

    Rows that go different ways after a token have it in segments of their own, because there its labels differ.

    Args:
        input_ids, position_ids (`torch.Tensor` of shape `(1, N)`):
            Tokens, and their positions in their rows, from 0 on.
        labels (`torch.Tensor` of shape `(1, N)`):
            Next tokens, -100 where no row scores one.
        counts (`torch.Tensor` of shape `(1, N)`):
            Number of rows that have the token.
        families (`list[Family]`):
            All segments.
        back (`torch.Tensor` of shape `(N,)`):
            Place of each token in the padded families, one after the other.
        gather (`torch.Tensor` of shape `(B, T)`):
            Place in the packed row of the token that predicts each completion token.
        scored (`torch.Tensor` of shape `(B, T)`):
            Whether there is a completion token.
        order (`list[int]`):
            The rows, those that share most side by side.
        num_separate (`int`):
            Number of tokens if nothing were shared.
        masks (`dict`):
            Masks of the families, which attention makes in the first layer and uses again in others.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    counts: torch.Tensor
    families: list[Family]
    back: torch.Tensor
    gather: torch.Tensor
    scored: torch.Tensor
    order: list[int]
    num_separate: int
    masks: dict[tuple[object, ...], torch.Tensor] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return self.input_ids.size(1)


class _Segments:
    """
    Segments of a tree, each with the rows that have it and its first and last position there.

    Args:
        padded (`numpy.ndarray` of shape `(B, S + 1)`):
            Prompts and completions, padded with -1 on the right.
        lengths (`numpy.ndarray` of shape `(B,)`):
            Their lengths.
        keep_last (`bool`):
            Whether the last token of a row, which predicts nothing, is computed.
    """

    def __init__(self, padded: np.ndarray, lengths: np.ndarray, keep_last: bool) -> None:
        self.padded, self.lengths, self.keep_last = padded, lengths, keep_last
        self.segments: list[tuple[list[int], int, int]] = []
        self.offsets = [0]
        self.families: dict[tuple[int, ...], list[int]] = {}
        self.paths = np.zeros(padded.shape, int)  # place in the packed row of each token
        self.order: list[int] = []

    def grow(self, rows: list[int], start: int, ancestors: tuple[int, ...] = ()) -> None:
        """Add the segments of rows that have the same `ancestors`, which hold all before position `start`."""
        is_same = (self.padded[rows, start:] == self.padded[rows[0], start:]).all(0)
        end = int(self.lengths[rows].max())  # where all rows are equal, there is no other end
        shared = end if is_same.all() else start + int(is_same.argmin())
        is_leaf = shared == end
        stop = shared if is_leaf and self.keep_last else max(start, shared - 1)
        ways: dict[int, list[int]] = {}
        for row in rows:
            ways.setdefault(int(self.padded[row, shared]), []).append(row)  # -1 for rows that end here
        if not is_leaf and (stop - start) * (len(ways) - 1) < MIN_SAVED:
            stop = start
        if stop > start:
            number, offset = len(self.segments), self.offsets[-1]
            self.segments.append((rows, start, stop))
            self.families.setdefault(ancestors, []).append(number)
            self.offsets.append(offset + stop - start)
            self.paths[rows, start:stop] = np.arange(offset, self.offsets[-1])
            ancestors = (*ancestors, number)
        if is_leaf:
            self.order += rows
            return
        for way in ways.values():
            self.grow(way, stop, ancestors)


def build_tree(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, num_kept: int, keep_last: bool = False
) -> PromptTree:
    """
    The tree of a micro-batch: of equal starts of rows, be they system prompts, prompts, or reasonings after them.

    Args:
        input_ids (`torch.Tensor` of shape `(B, P + T)`):
            Prompts, padded on the left, and completions, padded on the right.
        attention_mask (`torch.Tensor` of shape `(B, P + T)`):
            Zero at the padding. All rows have at least one token of a prompt.
        num_kept (`int`):
            Columns of the completions, `T`.
        keep_last (`bool`, *optional*, defaults to `False`):
            Whether to compute the last token of each row as well, as statistics over all tokens need it.
    """
    ids, mask = input_ids.cpu().numpy(), attention_mask.cpu().numpy().astype(bool)
    lengths, completion_lengths = mask.sum(1), mask[:, -num_kept:].sum(1)
    padded = np.full((len(ids), ids.shape[1] + 1), -1)
    padded[np.arange(ids.shape[1] + 1) < lengths[:, None]] = ids[mask]
    tree = _Segments(padded, lengths, keep_last)
    needed = np.flatnonzero((completion_lengths > 0) | keep_last).tolist()
    if needed:
        tree.grow(needed, 0)

    pieces, positions, labels, counts = [], [], [], []
    for rows, start, stop in tree.segments:
        pieces.append(padded[rows[0], start:stop])
        positions.append(np.arange(start, stop))
        first_scored = (lengths - completion_lengths)[rows].min()
        following = padded[rows[0], start + 1 : stop + 1]
        labels.append(np.where((positions[-1] + 1 >= first_scored) & (following >= 0), following, -100))
        counts.append(np.full(stop - start, len(rows)))
    families, back, size = [], np.zeros(tree.offsets[-1], int), 0
    for ancestors, members in tree.families.items():
        first, last = (np.array([tree.offsets[i + shift] for i in members])[:, None] for shift in (0, 1))
        columns = np.arange((last - first).max())
        index = np.minimum(first + columns, last - 1)
        back[index] = size + np.minimum(columns, last - first - 1) + len(columns) * np.arange(len(members))[:, None]
        size += index.size
        context = [(tree.offsets[i], tree.offsets[i + 1]) for i in ancestors]
        families.append(Family(context, torch.from_numpy(index).to(input_ids.device)))
    columns = np.arange(num_kept)
    scored = columns < completion_lengths[:, None]
    place = np.where(scored, (lengths - completion_lengths)[:, None] - 1 + columns, 0)

    def packed(arrays: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(arrays)).to(input_ids.device).unsqueeze(0)

    return PromptTree(
        input_ids=packed(pieces),
        position_ids=packed(positions),
        labels=packed(labels),
        counts=packed(counts),
        families=families,
        back=torch.from_numpy(back).to(input_ids.device),
        gather=torch.from_numpy(np.take_along_axis(tree.paths, place, 1)).to(input_ids.device),
        scored=torch.from_numpy(scored).to(input_ids.device),
        order=tree.order,
        num_separate=int(lengths[needed].sum()) - (0 if keep_last else len(needed)),
    )
