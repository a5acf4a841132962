"""One rollout of a process, which every stage of a training step adds to."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch.nn.functional import pad

from ..credit import Segment
from ..regions import Partitioner, Turn


@dataclass
class Rollout:
    """
    Completions of one rollout on one process.

    Notation: `B` completions on this process, `N` on all, `T` tokens of the longest one, `K` rewards. Lists have
    length `B`, and their items belong to one completion.

    Args:
        inputs (`list[dict[str, Any]]`):
            Rows of the data set.
        prompts (`list`):
            Texts or messages.
        generated (`tuple`):
            What TRL's generation returns; it shares its lists with the fields below.
        num_generated (`int`, *optional*, defaults to `0`):
            Tokens that were sampled; those that completions share count once, and discarded ones count.

    Attributes:
        prompt_ids, completion_ids (`list[list[int]]`):
            Token ids.
        tool_mask (`list[list[int]]`, *optional*):
            Zero at tokens that come from tools or the template.
        completions (`list`):
            Texts or messages.
        logprobs (`list[list[float | None]]`, *optional*):
            Log-probabilities of the tokens when they were sampled.
        prefix_lengths (`list[int]`, *optional*):
            Tokens that each completion shares with the others of its branch; `None` without branches.
        turns (`list[list[Turn]]`):
            The assistant turns, parsed.
        part_ids (`torch.Tensor` of shape `(B, T)`):
            [`~rest_trl.tool_calls.Part`] per token, int8.
        rewards (`torch.Tensor` of shape `(N, K)`, *optional*):
            Rewards on all processes, NaN where a function gave none.
        logged (`dict[str, list]`):
            Columns that the rewards log beside the completions.
        environments (`list`, *optional*):
            Environments of the completions.
        segments (`list[list[Sequence[Segment]]]` of shape `(N, K, ...)`):
            Where the parts of the rewards are decided.
    """

    inputs: list[dict[str, Any]]
    prompts: list[Any]
    generated: tuple[Any, ...]
    num_generated: int = 0
    prefix_lengths: list[int] | None = None
    turns: list[list[Turn]] = field(default_factory=list)
    part_ids: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int8))
    rewards: torch.Tensor | None = None
    logged: dict[str, list[Any]] = field(default_factory=dict)
    environments: list[Any] | None = None
    segments: list[list[Sequence[Segment]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prompt_ids: list[list[int]]
        self.completion_ids: list[list[int]]
        self.tool_mask: list[list[int]] | None
        self.completions: list[Any]
        self.logprobs: list[list[float | None]] | None
        self.prompt_ids, self.completion_ids, self.tool_mask, self.completions, self.logprobs = self.generated[:5]

    def __len__(self) -> int:
        return len(self.completion_ids)

    def row(self, index: int) -> dict[str, Any]:
        """What belongs to one completion, without its reward: what [`replace`](Rollout.replace) takes."""
        names = ("inputs", "prompts", "prompt_ids", "completion_ids", "completions", "logprobs", "prefix_lengths")
        columns = {name: getattr(self, name) for name in names}
        row = {name: column[index] for name, column in columns.items() if column is not None}
        return row | {"logged": {name: values[index] for name, values in self.logged.items()}}

    def replace(self, index: int, row: dict[str, Any]) -> None:
        """Put another completion in the place of one. TRL reads the same lists, so it sees the new one."""
        for name, value in row.items():
            if name != "logged":
                getattr(self, name)[index] = value
        for name in {**self.logged, **row["logged"]}:
            self.logged.setdefault(name, [None] * len(self))[index] = row["logged"].get(name)

    def reward_arguments(self) -> dict[str, Any]:
        """What reward functions are called with, by name, but the state of the training."""
        columns = [name for name in self.inputs[0] if name not in ("prompt", "completion", "completion_ids")]
        arguments: dict[str, Any] = {name: [row[name] for row in self.inputs] for name in columns}
        arguments |= {"prompts": self.prompts, "completions": self.completions, "completion_ids": self.completion_ids}
        return arguments if self.environments is None else arguments | {"environments": self.environments}

    def padded_part_ids(self, mask: torch.Tensor) -> torch.Tensor:
        """
        Parts of the tokens, as TRL has padded and masked them.

        Args:
            mask (`torch.Tensor` of shape `(B, T)`):
                Non-zero at the policy's tokens. `T` may be larger than the longest completion.

        Returns:
            `torch.Tensor` of shape `(B, T)`, int8, on the device of `mask`.
        """
        part_ids = self.part_ids.to(mask.device)
        return pad(part_ids, (0, mask.size(1) - part_ids.size(1))) * mask.to(part_ids.dtype)


class RolloutReader:
    """
    Parses each rollout once, and keeps the turns of the last one for the rewards.

    Attributes:
        partitioner ([`~rest_trl.regions.Partitioner`]):
            Parses the sampled tokens.
        end_ids (`Collection[int]`):
            Tokens that end a turn, where the turns come from a `rollout_func`, which may mark tokens of the template
            after them as the policy's: that is refused.
    """

    partitioner: Partitioner
    end_ids: Collection[int] = ()

    def __init__(self) -> None:
        self._turns: dict[tuple[int, ...], list[Turn]] = {}

    def read(self, rollout: Rollout) -> None:
        """
        Parse a rollout, which gets its turns and parts.

        Raises:
            ValueError: if the mask does not fit the tokens, or a turn goes on after a token that ends it.
        """
        ids, tool_mask = rollout.completion_ids, rollout.tool_mask
        if tool_mask is not None:
            _check_lengths(ids, tool_mask)
        if self.end_ids:
            _check_ends(ids, tool_mask, self.end_ids, self.partitioner)
        rollout.part_ids, rollout.turns = self.partitioner.read_lists(ids, tool_mask)
        self._turns = dict(zip(map(tuple, ids), rollout.turns, strict=True))

    def turns(self, completion_ids: Sequence[Sequence[int]]) -> list[list[Turn]]:
        """
        The assistant turns of completions. One that is not of the last rollout is parsed as if all its tokens were the
        policy's.

        Args:
            completion_ids (`Sequence[Sequence[int]]` of length `B`):
                Sampled token ids.

        Returns:
            `list[list[Turn]]` of length `B`
        """
        found = [self._turns.get(tuple(ids)) for ids in completion_ids]
        pairs = zip(completion_ids, found, strict=True)
        return [self.partitioner.read_lists([ids]).turns[0] if turns is None else turns for ids, turns in pairs]

    def spans(self, completion_ids: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
        """Columns of the first token of every turn and after its last, see [`turns`](RolloutReader.turns)."""
        return [
            [(turn.column, turn.column + len(turn.token_starts)) for turn in turns]
            for turns in self.turns(completion_ids)
        ]


def _check_ends(
    completion_ids: Sequence[Sequence[int]],
    tool_mask: Sequence[Sequence[int]] | None,
    end_ids: Collection[int],
    partitioner: Partitioner,
) -> None:
    for row, ids in enumerate(completion_ids):
        policy = [1] * len(ids) if tool_mask is None else tool_mask[row]
        for is_policy, run in groupby(zip(policy, ids, strict=True), key=lambda pair: bool(pair[0])):
            tokens = [token for _, token in run]
            end = next((place for place, token in enumerate(tokens) if token in end_ids), len(tokens))
            # Padding and white space after the end do no harm, unlike a further turn read as part of this one.
            after = partitioner.token_bytes.text(tokens[end + 1 :]).strip() if is_policy else ""
            if after:
                raise ValueError(
                    f"completion {row} of rollout_func goes on after the end of a turn with {after!r:.80} as the "
                    "policy's: give `env_mask` 0 there, as at all tokens of the template and of tools, so that each "
                    "turn is read by itself"
                )


def policy_mask(batch: dict[str, Any]) -> torch.Tensor:
    """Mask of shape `(B, T)` of the tokens of a batch that the policy has sampled, not a tool."""
    return batch["completion_mask"] * batch["tool_mask"] if "tool_mask" in batch else batch["completion_mask"]


def _check_lengths(completion_ids: Sequence[Sequence[int]], tool_mask: Sequence[Sequence[int]]) -> None:
    cure = (
        "let rollout_func give one number per token, 1 for those of the policy and 0 for those of template and tools"
    )
    if len(tool_mask) != len(completion_ids):
        raise ValueError(f"`env_mask` has {len(tool_mask)} rows for {len(completion_ids)} completions: {cure}")
    for row, (ids, mask) in enumerate(zip(completion_ids, tool_mask, strict=True)):
        if len(ids) != len(mask):
            raise ValueError(
                f"`env_mask` of completion {row} has {len(mask)} numbers for {len(ids)} `completion_ids`: {cure}"
            )
