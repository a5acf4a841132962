"""Coefficient rules outside a training, with the state of a checkpoint and the settings of a recipe."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...regions import normalize, to_regions
from ...regions.rules import bind_rule, checked_coefficients, rule_name
from ...runs.recipes import read_recipe


# Takes completion_ids, mask and part_ids of shape (1, T); returns coefficients of shape (1, T).
Rule = Callable[..., torch.Tensor]


class RunState(NamedTuple):
    """
    What a checkpoint says of its run: optimiser steps, share of them that is done, and, of shape `(R,)`, running means
    of the entropy per region in nats (NaN where none was observed) and of the share of the tokens.
    """

    step: int
    progress: float
    region_entropies: torch.Tensor
    region_shares: torch.Tensor


def read_state(checkpoint: Path) -> RunState:
    """Read the state of a run from the `trainer_state.json` of one of its checkpoints."""
    path = checkpoint / "trainer_state.json"
    if not path.exists():
        raise ValueError(f"{checkpoint} holds no trainer_state.json: give a checkpoint-<step> directory of the run")
    state = json.loads(path.read_text(encoding="utf-8"))
    statistics = state["stateful_callbacks"].get("RegionStatistics")
    if statistics is None:
        raise ValueError(f"{path} holds no region entropies: it is not of a run with ResTGRPOTrainer")
    observed = statistics["attributes"]["observed"]
    return RunState(
        step=state["global_step"],
        progress=state["global_step"] / state["max_steps"] if state["max_steps"] else 0.0,
        region_entropies=torch.tensor([float("nan") if e is None else e for e in observed["entropies"]]),
        region_shares=torch.tensor(observed["shares"]),
    )


def make_rule(
    name: str,
    *,
    weights: Sequence[float] | None = None,
    checkpoint: Path | None = None,
    recipe: Path | None = None,
    step: int | None = None,
) -> tuple[Rule | None, str]:
    """
    Make a rule as training would apply it at a checkpoint.

    Args:
        name (`str`):
            A preset or the dotted path of a function, see [`~rest_trl.regions.get_coefficients_func`].
        weights (`Sequence[float]` of length 5, *optional*):
            Weight of each region but `NONE`, used instead of the rule, for instance those that training logs as
            `rest/coefficient/<region>`.
        checkpoint (`Path`, *optional*):
            See [`read_state`].
        recipe (`Path`, *optional*):
            A recipe, whose settings of the rule take precedence over the defaults.
        step (`int`, *optional*):
            Rollouts done. By default the checkpoint's optimiser steps, or 0.

    Returns:
        `tuple[Callable | None, str]`: the rule and its description; no rule for `"entropy"` without a checkpoint.

    Raises:
        ValueError: if the rule cannot be imported, or the checkpoint or recipe cannot be used.
    """
    if weights is not None:
        return partial(_weigh, torch.tensor([0.0, *weights])), "the weights that were given"
    state = None if checkpoint is None else read_state(checkpoint)
    coefficients = {} if recipe is None else read_recipe(recipe).get("coefficients", {})
    has_arguments = isinstance(coefficients, dict) and rule_name(coefficients) == name
    function = bind_rule(coefficients if has_arguments else name)
    if name == "entropy" and state is None:
        return None, name
    if step is None:
        step = 0 if state is None else state.step
    known: dict[str, Any] = {"step": step, "global_step": step, "progress": 0.0}
    described = f"{name} at rollout {step}"
    if state is not None:
        known |= {"progress": state.progress, "global_step": state.step}
        known |= {"region_entropies": state.region_entropies, "region_shares": state.region_shares}
        described = f"{name} with the region entropies of step {state.step}, {state.progress:.0%} of the training"
    if name == "entropy" and recipe is None:
        described += ", with the default arguments of the rule (--config gives others)"
    return partial(_apply, function, name, known), described


def _weigh(weights: torch.Tensor, *, mask: torch.Tensor, part_ids: torch.Tensor, **kwargs: object) -> torch.Tensor:
    return normalize(weights[to_regions(part_ids).long()], mask)


def _apply(
    function: Callable[..., torch.Tensor], name: str, known: dict[str, Any], **inputs: torch.Tensor
) -> torch.Tensor:
    arguments = known | {name: inputs[name] for name in ("completion_ids", "part_ids")}
    arguments["region_ids"] = to_regions(inputs["part_ids"])
    try:
        return checked_coefficients(function, inputs["mask"], arguments)
    except Exception as error:  # of a user's code, which may need what only a training has
        raise ValueError(
            f"coefficients={name} cannot be shown ({type(error).__name__}: {error}): outside a training a rule is "
            f"given mask, {', '.join(arguments)}; --checkpoint adds region entropies, and a run with log_completions "
            "stores what training used"
        ) from error
