import pytest
import torch

from rest_trl.regions import Partitioner
from rest_trl.rollouts.rollout import Rollout, RolloutReader
from rest_trl.tool_calls import get_syntax


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
HEADER = "<|im_start|>user\nsunny<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def partitioner(tokenizer):
    return Partitioner(tokenizer, get_syntax("hermes"))


@pytest.fixture
def reader(partitioner, tokenizer):
    return make_reader(partitioner, [tokenizer.eos_token_id])


def make_reader(partitioner, end_ids=()):
    reader = RolloutReader()
    reader.partitioner, reader.end_ids = partitioner, end_ids
    return reader


def read(reader, completion_ids, tool_mask=None):
    rollout = Rollout([], [], ([], completion_ids, tool_mask, [], None))
    reader.read(rollout)
    return rollout


def masked(tokenizer, *pieces):
    """Token ids and mask of pieces of text, each with whether it is the policy's."""
    pairs = [(token, own) for text, own in pieces for token in tokenizer(text)["input_ids"]]
    return [token for token, _ in pairs], [own for _, own in pairs]


class TestMasks:
    @pytest.mark.parametrize("change", [lambda mask: mask[:-1], lambda mask: [*mask, 1], lambda mask: []])
    def test_of_another_length_are_refused_with_cause_and_cure(self, change, reader, tokenizer):
        ids, mask = masked(tokenizer, (CALL, 1), (HEADER, 0), ("Sunny.", 1))
        with pytest.raises(
            ValueError, match=r"`env_mask` of completion 1 has \d+ numbers for \d+ `completion_ids`: let"
        ):
            read(reader, [ids, ids], [mask, change(mask)])

    def test_for_other_completions_are_refused(self, reader):
        with pytest.raises(ValueError, match="`env_mask` has 1 rows for 2 completions: let rollout_func give one"):
            read(reader, [[5], [6]], [[1]])

    def test_that_fit_give_every_turn_by_itself(self, reader, partitioner, tokenizer):
        end = "<|im_end|>"
        ids, mask = masked(tokenizer, (CALL + end, 1), ("\n" + HEADER, 0), (CALL + end, 1))
        rollout = read(reader, [ids], [mask])
        (turns,) = reader.turns([ids])
        assert [len(turn.parsed.calls) for turn in turns] == [1, 1] and rollout.turns == [turns]
        parts = rollout.padded_part_ids(torch.tensor([mask]))[0]
        alone = partitioner.read_lists([tokenizer(CALL + end)["input_ids"]]).part_ids[0]
        assert torch.equal(parts, torch.cat([alone, torch.zeros(mask.count(0), dtype=torch.int8), alone]))


class TestTurnsThatGoOnAfterTheirEnd:
    """What a `rollout_func` gives whose mask takes tokens of the template for the policy's."""

    @pytest.mark.parametrize("given", [True, False])
    def test_are_refused(self, given, reader, tokenizer):
        ids, mask = masked(tokenizer, (CALL + "<|im_end|>\n" + HEADER + CALL, 1))
        with pytest.raises(
            ValueError, match=r"goes on after the end of a turn with 'user\\nsunny.*: give `env_mask` 0"
        ):
            read(reader, [[5], ids], [[1], mask] if given else None)

    @pytest.mark.parametrize("tail", ["<|im_end|>", "<|im_end|>\n", "<|im_end|><|endoftext|><|endoftext|>", ""])
    def test_are_not_those_with_padding_or_a_line_break_after_it(self, tail, reader, tokenizer):
        ids, mask = masked(tokenizer, (CALL + tail, 1), (HEADER, 0), ("Sunny." + tail, 1))
        read(reader, [ids], [mask])
        assert len(reader.turns([ids])[0]) == 2

    def test_are_looked_for_in_rollout_functions_alone(self, partitioner, tokenizer):
        reader = make_reader(partitioner)
        ids, _ = masked(tokenizer, (CALL + "<|im_end|>\n" + HEADER, 1))
        read(reader, [ids])
        assert len(reader.turns([ids])[0]) == 1
