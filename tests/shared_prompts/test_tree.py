import itertools

import pytest
import torch
from shared_prompts.families import micro_batch, random_rows

from rest_trl.shared_prompts.tree import MIN_SAVED, build_tree


def paths(tree):
    """Of each token of the packed row, the tokens that it sees, as the families say."""
    seen = {}
    for family in tree.families:
        context = list(itertools.chain(*(range(*bounds) for bounds in family.context)))
        for places in family.index.tolist():
            for number, place in enumerate(places):
                seen.setdefault(place, [*context, *places[: number + 1]])
    return seen


def sequences(ids, mask, kept):
    for row, own in zip(ids, mask, strict=True):
        yield row[own.bool()].tolist(), int(own[:-kept].sum())


@pytest.mark.parametrize("keep_last", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_every_scored_token_sees_exactly_what_precedes_it_in_its_row(seed, keep_last):
    ids, mask, kept = random_rows(seed)
    tree = build_tree(ids, mask, kept, keep_last)
    seen = paths(tree)
    assert sorted(seen) == list(range(tree.num_tokens))
    assert torch.equal(tree.scored, mask[:, -kept:].bool())
    packed, positions, labels = tree.input_ids[0], tree.position_ids[0], tree.labels[0]
    for row, (sequence, prompt_length) in enumerate(sequences(ids, mask, kept)):
        for column, place in enumerate(tree.gather[row][tree.scored[row]].tolist()):
            assert packed[seen[place]].tolist() == sequence[: prompt_length + column]
            assert positions[seen[place]].tolist() == list(range(prompt_length + column))
            assert labels[place] == sequence[prompt_length + column]


@pytest.mark.parametrize("seed", range(30))
def test_every_token_of_every_row_counts_once_where_all_are_kept(seed):
    ids, mask, kept = random_rows(seed)
    tree = build_tree(ids, mask, kept, keep_last=True)
    counted = torch.bincount(tree.input_ids[0].repeat_interleave(tree.counts[0]), minlength=97)
    assert torch.equal(counted, torch.bincount(ids[mask.bool()], minlength=97))
    assert tree.num_separate == tree.counts.sum() == mask.sum()


@pytest.mark.parametrize("seed", range(30))
def test_the_families_hold_each_token_once(seed):
    tree = build_tree(*random_rows(seed))
    flat = torch.cat([family.index.flatten() for family in tree.families])
    assert flat[tree.back].tolist() == list(range(tree.num_tokens))


def test_a_group_has_its_prompt_once_and_its_last_token_per_completion():
    prompt = list(range(3, 43))
    tree = build_tree(*micro_batch([prompt] * 4, [[50 + i, 60, 61] for i in range(4)]))
    assert tree.num_tokens == 39 + 4 * 3
    assert tree.num_separate == 4 * (39 + 3)
    assert [tuple(family.index.shape) for family in tree.families] == [(1, 39), (4, 3)]


def test_branches_have_their_reasoning_once():
    prompt, reasonings = list(range(3, 43)), [[50] * 30, [51] * 30]
    completions = [reasonings[i // 2] + [60 + i, 70] for i in range(4)]
    tree = build_tree(*micro_batch([prompt] * 4, completions))
    assert tree.num_tokens == 39 + 2 * 30 + 4 * 2
    assert [len(family.context) for family in tree.families] == [0, 1, 2, 2]


def test_a_gold_call_after_a_sampled_reasoning_costs_its_own_tokens():
    prompt, reasonings = list(range(3, 43)), [[50 + i] * 30 for i in range(4)]
    calls, golds = ([reasoning + [token] * 12 for reasoning in reasonings] for token in (60, 61))
    sampled = build_tree(*micro_batch([prompt] * 4, calls))
    with_golds = build_tree(*micro_batch([prompt] * 8, calls + golds))
    assert with_golds.num_tokens == sampled.num_tokens + 4 * 12


def test_different_prompts_share_a_system_prompt_wherever_they_are_padded():
    system = list(range(3, 43))
    prompts = [[*system, 50], [*system, 51, 52, 53]]
    tree = build_tree(*micro_batch([prompts[0]] * 2 + [prompts[1]] * 2, [[i] for i in range(60, 64)]))
    assert tree.families[0].index.size(1) >= 39
    assert tree.num_tokens < 39 + 20


def test_a_start_that_saves_too_little_is_no_level():
    prompt = list(range(3, 43))
    few, many = 2, MIN_SAVED + 2
    for shared, levels in ((few, 2), (many, 3)):
        completions = [[50] * shared + [60 + i] for i in range(2)] + [[70], [71]]
        tree = build_tree(*micro_batch([prompt] * 4, completions))
        assert len(tree.families) == levels


def test_rows_without_completions_are_not_computed():
    tree = build_tree(*micro_batch([[3] * 30, [4] * 30, [4] * 30], [[], [5], [6]]))
    assert 3 not in tree.input_ids[0].tolist()
    assert not tree.scored[0].any()


def test_equal_rows_are_computed_once():
    tree = build_tree(*micro_batch([[3, 4, 5]] * 3, [[6, 7]] * 3))
    assert tree.input_ids[0].tolist() == [3, 4, 5, 6]
    assert tree.counts[0].tolist() == [3, 3, 3, 3]


def test_the_order_puts_rows_that_share_most_side_by_side():
    prompts = [[3] * 30, [4] * 30] * 2
    tree = build_tree(*micro_batch(prompts, [[i] for i in range(60, 64)]))
    assert tree.order == [0, 2, 1, 3]
