"""What training saw of the completions that it logs: their tokens, with part, coefficient and advantage of each."""

import json
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...regions import to_regions
from ...regions.token_bytes import TokenBytes
from ...runs.files import write_table
from ...tool_calls import Region
from .colors import COLORS
from .completion_files import tokens_path
from .writing import warned_if_failing


COLUMNS = [
    "completion_ids",
    "part_ids",
    "coefficients",
    "advantages",
    "turn_rewards",
    "solution",
    "tools",
    "truncated",
]


def mark_regions(
    completion_ids: torch.Tensor, completion_mask: torch.Tensor, region_ids: torch.Tensor, token_bytes: TokenBytes
) -> list[str]:
    """
    Put a coloured square before every run of tokens of one region: the column `regions` of TRL's table.

    Squares keep their colour wherever a table is shown: TRL prints, stores and uploads one and the same string, and it
    escapes markup in the terminal. Without the squares this is the text of the sampled ids, except for special tokens
    that are no markers of the syntax. A character that is split over regions goes with its last token.

    Args:
        completion_ids (`torch.Tensor` of shape `(B, T)`):
            Sampled token ids.
        completion_mask (`torch.Tensor` of shape `(B, T)`):
            Zero at padding.
        region_ids (`torch.Tensor` of shape `(B, T)`):
            [`Region`] per token; `NONE` within the mask is what came from tools.
        token_bytes ([`~rest_trl.regions.token_bytes.TokenBytes`]):
            The bytes of the policy's tokens.

    Returns:
        `list[str]` of length `B`
    """
    token_bytes.cover(int(completion_ids.max()) if completion_ids.numel() else 0)
    marked = []
    for ids, regions, mask in zip(completion_ids.cpu(), region_ids.cpu(), completion_mask.cpu().bool(), strict=True):
        kept, values = ids[mask].numpy(), regions[mask]
        runs, lengths = torch.unique_consecutive(values, return_counts=True)
        decode = getincrementaldecoder("utf-8")("replace").decode
        text, start, last = "", 0, None
        for region, length in zip(runs.tolist(), lengths.tolist(), strict=True):
            run = decode(token_bytes.bytes(kept[start : start + length]))
            start += length
            if run:
                text += run if region == last else COLORS[Region(region)].square + run
                last = region
        marked.append(text + decode(b"", final=True))
    return marked


class TokenLog(TrainerCallback):
    """
    Callback that writes the tokens of the logged completions beside TRL's table of them.

    With `log_completions`, TRL writes `completions/completions_00010.parquet`; this callback then writes
    `completion_tokens/completion_tokens_00010.parquet`, with the same rows in the same order and the columns
    `completion_ids`, `part_ids` ([`~rest_trl.tool_calls.Part`]), `coefficients` (null where they are not known before
    the update) and `advantages` (before the coefficients; null where all tokens share the one in TRL's table), each a
    list over the tokens; `turn_rewards`, a JSON object with one list over the turns per reward function; `solution`,
    the gold completion; `tools`, the row's; and `truncated`, whether the completion was cut off.

    These are not columns of TRL's table, because TRL prints every column in the terminal and sends it to the trackers.
    They have a folder of their own, because TRL can upload its folder as a data set, whose files need equal columns.

    Args:
        args ([`ResTGRPOConfig`]):
            The trainer's arguments.
        token_bytes ([`~rest_trl.regions.token_bytes.TokenBytes`]):
            The bytes of the policy's tokens.
    """

    def __init__(self, args: Any, token_bytes: TokenBytes) -> None:
        self._output_dir, self._token_bytes = Path(args.output_dir), token_bytes
        # As TRL does, keep the completions of one generation batch.
        self._rows: deque[dict[str, Any]] = deque(maxlen=args.generation_batch_size)

    def add(
        self,
        batch: Mapping[str, Any],
        coefficients: torch.Tensor | None,
        turn_rewards: Sequence[dict[str, list[float]]],
        inputs: Sequence[Mapping[str, Any]],
        truncated: Sequence[bool],
    ) -> list[str]:
        """
        Take in completions, on all ranks at once, in the order in which TRL logs them.

        Args:
            batch (`Mapping[str, Any]`):
                Tensors of the rollout, of which `completion_ids`, `completion_mask` and `part_ids` of shape `(B, T)`
                and `advantages` of shape `(B,)` or `(B, T)`, before the coefficients, are read.
            coefficients (`torch.Tensor` of shape `(B, T)`, *optional*):
                The coefficients of the first update on these completions; `None` if the rule needs what only the
                update knows.
            turn_rewards (`Sequence[dict[str, list[float]]]` of length `B`):
                Rewards of the turns, by the names of the functions that gave them.
            inputs (`Sequence[Mapping[str, Any]]` of length `B`):
                The rows of the data set, of which `solution` and `tools` are kept where they are there.
            truncated (`Sequence[bool]` of length `B`):
                Whether completions were cut off.

        Returns:
            `list[str]` of length `B`: the completions of this process, with their regions marked.
        """
        completion_ids, mask, part_ids = (batch[name] for name in ("completion_ids", "completion_mask", "part_ids"))
        columns = {"completion_ids": completion_ids.cpu().int(), "part_ids": part_ids.cpu()}
        if coefficients is not None:
            columns["coefficients"] = coefficients.detach().cpu().float()
        if batch["advantages"].dim() == 2:
            columns["advantages"] = batch["advantages"].cpu().float()
        rows: list[dict[str, Any]] = [
            {name: column[row][kept].numpy() for name, column in columns.items()}
            for row, kept in enumerate(mask.cpu().bool())
        ]
        for row, rewards, of_data, is_cut in zip(rows, turn_rewards, inputs, truncated, strict=True):
            gold, tools = of_data.get("solution"), of_data.get("tools")
            if isinstance(gold, Mapping):  # Parquet takes no lists of values of several types
                gold = {"text": gold["text"], "alternatives": json.dumps(gold.get("alternatives"))}
            row |= {"turn_rewards": json.dumps(rewards) if rewards else None, "solution": gold, "truncated": is_cut}
            row["tools"] = tools if tools is None or isinstance(tools, str) else json.dumps(tools)
        self._rows.extend(gather_object(rows))
        return mark_regions(completion_ids, mask, to_regions(part_ids), self._token_bytes)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the table of this step; TRL writes its own right after."""
        if state.is_world_process_zero and self._rows:
            path = tokens_path(self._output_dir / "completions" / f"completions_{state.global_step:05d}.parquet")
            with warned_if_failing(f"{path}, which `rest-trl inspect` reads,"):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_table(pandas.DataFrame(list(self._rows), columns=COLUMNS), path)
