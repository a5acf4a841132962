"""Diagnoses during a training."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...regions import Region
from .diagnosis import Diagnosis, Settings, diagnose
from .moments import measures, tables
from .token_weights import Group, Rule, check_loss, rules_of, split_groups


class DiagnoseCallback(TrainerCallback):
    """
    Diagnoses the gradients of a training's rollouts, and logs `diagnose/MEASURE/CREDIT/COEFFICIENTS[/REGION]`.

    It generates nothing. Every `diagnose_steps` optimiser steps it compares all rules on the groups of a rollout,
    before the first update on them, where the policy is still the one that sampled. Neither gradients nor random
    numbers of the training are touched, so the weights come out the same to the bit.

    A rollout has few groups, so one step's figures are mostly noise. `trace` and `signal` are without bias, so they
    can be averaged over steps; the measures that `rest-trl diagnose` reports are ratios of such means. Both are logged
    as 0 where there is no gradient: in a region without tokens, and in a rollout whose groups all have equal rewards.

    Args:
        trainer ([`~rest_trl.ResTGRPOTrainer`]):
            The trainer, on one process. It passes each rollout to [`take`](DiagnoseCallback.take).

    Raises:
        ValueError: if the trainer has several processes, a model of images, or a loss that is not supported.
    """

    def __init__(self, trainer: Any) -> None:
        check_loss(trainer.args)
        if trainer.accelerator.num_processes > 1 or trainer.has_images:
            raise ValueError(
                "gradients are diagnosed in one process and for models of text only: leave out diagnose_steps, and "
                "diagnose checkpoints with rest-trl diagnose"
            )
        self._trainer = trainer
        self.groups: list[Group] = []

    def take(
        self,
        rollout: Mapping[str, Any],
        mask: torch.Tensor,
        advantages: Mapping[str, torch.Tensor],
        num_generations: int,
    ) -> None:
        """Keep the groups of a rollout, see [`split_groups`], if it is to be diagnosed."""
        args = self._trainer.args
        # Rollouts come only every `steps_per_rollout` steps: the first one at or after a due step is taken.
        if self._trainer.state.global_step % args.diagnose_steps < args.steps_per_rollout:
            self.groups += split_groups(rollout, mask, advantages, num_generations)

    def diagnose(self, groups: list[Group], settings: Settings, **kwargs: Any) -> Diagnosis | None:
        """Diagnose groups that the current policy has sampled, see [`~rest_trl.lab.diagnose.diagnosis.diagnose`]."""
        trainer = self._trainer
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        step = int(trainer.state.global_step // trainer.args.steps_per_rollout)
        autocast = trainer.accelerator.autocast
        rules = rules_of(trainer.args)
        return diagnose(model, groups, rules, trainer.args, trainer.progress, step, autocast, settings, **kwargs)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        groups, self.groups = self.groups, []
        if len(groups) < 2:
            return
        diagnosis = self.diagnose(groups, Settings())
        minibatch = max(1, int(len(groups) // max(1, self._trainer.args.steps_per_rollout)))
        for name, value in scalars(diagnosis, rules_of(self._trainer.args), minibatch).items():
            self._trainer.log_value(name, value)


def scalars(diagnosis: Diagnosis | None, rules: Sequence[Rule], minibatch: int) -> dict[str, float]:
    """
    What is logged of a diagnosis, `None` where there is no gradient: the trace by rule and region; signal, projection
    and alignment of the whole gradient by rule. What is not defined is left out.
    """
    if diagnosis is None:
        zeros = torch.zeros(len(rules) * len(Region))
        found = {"trace": zeros, "signal": zeros, "projection": zeros / 0, "alignment": zeros / 0}
    else:
        found = measures(tables(diagnosis.moments), diagnosis.reference, 0, minibatch)
    logged = {}
    for index, rule in enumerate(rules):
        for region in Region:
            place = index * len(Region) + region
            whole = region == Region.NONE
            of_region = "" if whole else f"/{region.name.lower()}"
            for name in ("trace", "signal", "projection", "alignment") if whole else ("trace",):
                value = found[name][place].item()
                if value == value:
                    logged[f"diagnose/{name}/{rule}{of_region}"] = value
    return logged
