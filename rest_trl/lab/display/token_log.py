"""What training saw of the completions that it logs: their tokens, with the part and the coefficient of each."""

import json
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .completions import tokens_path
from .writing import warned_if_failing


COLUMNS = ["completion_ids", "part_ids", "coefficients", "advantages", "turn_rewards"]


class TokenLog(TrainerCallback):
    """
    Callback that writes the tokens of the logged completions beside TRL's table of them.

    With `log_completions`, TRL writes `completions/completions_00010.parquet`; this callback then writes
    `completion_tokens/completion_tokens_00010.parquet`, with the same rows in the same order and the columns
    `completion_ids`, `part_ids` ([`~rest_trl.tool_calls.Part`]), `coefficients` (null where they are not known before
    the update) and `advantages` (before the coefficients; null where all tokens share the one in TRL's table), each a
    list over the tokens; and `turn_rewards`, a JSON object with one list over the turns per reward function.

    These are no columns of TRL's table, because TRL prints every column in the terminal and sends it to the trackers.
    They have a folder of their own, because TRL can upload its folder as a data set, whose files need equal columns.

    Args:
        args ([`ResTGRPOConfig`]):
            The trainer's arguments.
    """

    def __init__(self, args: Any) -> None:
        self._output_dir = Path(args.output_dir)
        # As TRL does, keep the completions of one generation batch.
        self._rows: deque[dict[str, Any]] = deque(maxlen=args.generation_batch_size)

    def add(
        self,
        completion_ids: torch.Tensor,
        completion_mask: torch.Tensor,
        part_ids: torch.Tensor,
        coefficients: torch.Tensor | None,
        advantages: torch.Tensor,
        turn_rewards: Sequence[dict[str, list[float]]],
    ) -> None:
        """
        Take in completions, on all ranks at once, in the order in which TRL logs them.

        Args:
            completion_ids (`torch.Tensor` of shape `(B, T)`):
                Sampled token ids, and those of tool results.
            completion_mask (`torch.Tensor` of shape `(B, T)`):
                Zero at padding.
            part_ids (`torch.Tensor` of shape `(B, T)`):
                [`~rest_trl.tool_calls.Part`] per token; `NONE` within the mask is what came from tools.
            coefficients (`torch.Tensor` of shape `(B, T)`, *optional*):
                The coefficients of the first update on these completions; `None` if the rule needs what only the
                update knows.
            advantages (`torch.Tensor` of shape `(B,)` or `(B, T)`):
                Before the coefficients.
            turn_rewards (`Sequence[dict[str, list[float]]]` of length `B`):
                Rewards of the turns, by the names of the functions that gave them.
        """
        masks = completion_mask.cpu().bool()
        columns = {"completion_ids": completion_ids.cpu().int(), "part_ids": part_ids.cpu()}
        if coefficients is not None:
            columns["coefficients"] = coefficients.detach().cpu().float()
        if advantages.dim() == 2:
            columns["advantages"] = advantages.cpu().float()
        rows: list[dict[str, Any]] = [
            {name: column[row][mask].numpy() for name, column in columns.items()} for row, mask in enumerate(masks)
        ]
        for row, rewards in zip(rows, turn_rewards, strict=True):
            if rewards:
                row["turn_rewards"] = json.dumps(rewards)
        self._rows.extend(gather_object(rows))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the table of this step; TRL writes its own right after."""
        if state.is_world_process_zero and self._rows:
            path = tokens_path(self._output_dir / "completions" / f"completions_{state.global_step:05d}.parquet")
            with warned_if_failing(f"{path}, which `rest-trl inspect` reads,"):
                self._write(path)

    def _write(self, path: Path) -> None:
        table = pandas.DataFrame(list(self._rows), columns=COLUMNS)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        try:
            table.to_parquet(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
