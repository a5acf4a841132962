"""What training saw of the completions that it logs: their tokens, with the part and the coefficient of each."""

import json
import os
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
from .completions import tokens_path
from .marks import mark_regions
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
        for row, rewards in zip(rows, turn_rewards, strict=True):
            if rewards:
                row["turn_rewards"] = json.dumps(rewards)
        self._rows.extend(gather_object(rows))
        return mark_regions(completion_ids, mask, to_regions(part_ids), self._token_bytes)

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
