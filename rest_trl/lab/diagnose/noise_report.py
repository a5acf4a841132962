"""The report of a diagnosis: `report.md`, `report.png` and `estimates.parquet`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ...regions import Region
from ...regions.coefficients import curriculum_weights, region_weights
from ...regions.rules import rule_arguments
from ...runs.files import write_atomically, write_table
from ..display.writing import markdown_table
from .diagnosis import Diagnosis
from .moments import Estimates, tables
from .noise_picture import plot_diagnosis
from .theory import TheoremEstimates, theorem_estimates
from .token_weights import PER_COMPLETION


@dataclass(frozen=True)
class Facts:
    """What a reader must know of a diagnosis beside its figures."""

    command: str
    args: Any  # of the recipe
    progress: float  # of the curriculum, in [0, 1]
    minibatch: int  # groups of an optimiser step
    seconds: float  # that the rollouts took


def write_report(diagnosis: Diagnosis, facts: Facts, directory: Path) -> Path:
    """Write `report.md`, `report.png` and `estimates.parquet` of three groups or more; returns the first one."""
    found = diagnosis.gradient_estimates(facts.minibatch)
    directory.mkdir(parents=True, exist_ok=True)
    write_table(result_table(diagnosis, facts.minibatch), directory / "estimates.parquet")
    plot_diagnosis(diagnosis, facts.minibatch, directory / "report.png")
    sections = [
        _head(diagnosis, facts),
        _whole(diagnosis, facts, found),
        _regions(diagnosis, found),
        _lemma(diagnosis),
        _theorem(diagnosis, facts, found),
    ]
    path = directory / "report.md"
    write_atomically(path, "\n\n".join(sections) + "\n")
    return path


def result_table(diagnosis: Diagnosis, minibatch: int) -> pd.DataFrame:
    """All estimates: columns `rule`, `region`, `measure`, `value`, `low`, `high`; what is not defined has no row."""
    rows: list[tuple[str, str, str, float, float, float]] = []

    def add(rule: str, region: str, measure: str, estimates: Estimates, *place: int) -> None:
        value, low, high = (part[place].item() for part in estimates)
        if value == value:
            rows.append((rule, region, measure, value, low, high))

    for measure, estimates in diagnosis.gradient_estimates(minibatch).items():
        for index, rule in enumerate(diagnosis.rules):
            for region in Region:
                add(str(rule), _region_name(region), measure, estimates, index, region)
    for measure, estimates in diagnosis.lemma_estimates().items():
        for region in Region:
            add("", _region_name(region), f"lemma_2/{measure}", estimates, region)
    if (found := _theorem_estimates(diagnosis)) is not None:
        for place, measure in enumerate(("variance", "orthogonal", "independent", "bound")):
            add("", "whole", f"theorem_1/{measure}", found.steps, place)
        for region in list(Region)[1:]:
            add("", _region_name(region), "theorem_1/beta", found.betas, region)
    return pd.DataFrame(rows, columns=["rule", "region", "measure", "value", "low", "high"])


def _theorem_estimates(diagnosis: Diagnosis) -> TheoremEstimates | None:
    if diagnosis.theorem is None:
        return None
    return theorem_estimates(diagnosis.theorem, tables(diagnosis.moments).pairs[0, 0].item())


def _region_name(region: int) -> str:
    """Name of a region of a diagnosis, in which 0 is the whole completion."""
    return "whole" if region == Region.NONE else Region(region).name.lower()


def _head(diagnosis: Diagnosis, facts: Facts) -> str:
    args, groups = facts.args, len(diagnosis.lemma)
    seen = (
        f"Gradients are those of all {diagnosis.parameters:,} trainable parameters."
        if diagnosis.gradients == "exact"
        else f"Gradients are those of the LM head alone, projected at random to {diagnosis.parameters:,} numbers: "
        "what a rule does to the layers below is not seen, and figures have the noise of the projection, which the "
        "intervals do not cover."
    )
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in diagnosis.seconds.items())
    return "\n".join(
        [
            "# Where the gradient's noise comes from",
            "",
            "```shell",
            facts.command,
            "```",
            "",
            f"{groups} groups of {args.num_generations} completions at temperature {args.temperature:g}; groups of "
            f"equal rewards, without a gradient: {diagnosis.equal_groups}; loss_type {args.loss_type}, progress of "
            f"the curriculum {facts.progress:.2f}. {seen} Entropies of the regions are those of these completions. "
            "Brackets are 95 % intervals (jackknife over groups, Student's t); they are not widened for the number of "
            "figures. The covariance is that of one group's gradient: it holds what differs between prompts, too.",
            "",
            f"Cost: rollouts {facts.seconds:.0f} s, {seconds}; {diagnosis.passes} backward passes a group, gradients "
            f"of {diagnosis.file_bytes / 2**30:.2f} GiB while they are compared.",
            "",
            "![Noise, signal, signal-to-noise and Lemma 2](report.png)",
        ]
    )


def _whole(diagnosis: Diagnosis, facts: Facts, found: dict[str, Estimates]) -> str:
    rows = [
        [
            str(rule),
            *(_cell(found[name], index, 0) for name in ("trace_ratio", "projection", "esnr_ratio", "alignment")),
        ]
        for index, rule in enumerate(diagnosis.rules)
    ]
    noise = f"trace {_cell(found['trace'], 0, 0)}, squared mean {_cell(found['signal'], 0, 0)}"
    return (
        "## Rules\n\n*Noise*: trace of the covariance over GRPO's. *Projection*: the mean gradient along GRPO's; 1 "
        "where a rule keeps it. *Signal-to-noise*: squared mean along GRPO's mean over the trace, over GRPO's. "
        f"*Alignment*: cosine of the mean gradient of {facts.minibatch} groups, an optimiser step, with GRPO's mean "
        f"gradient. GRPO itself: {noise}.\n\n"
        + markdown_table(["credit/coefficients", "noise", "projection", "signal-to-noise", "alignment"], rows)
    )


def _regions(diagnosis: Diagnosis, found: dict[str, Estimates]) -> str:
    entropies, shares = diagnosis.statistics.tensors(torch.device("cpu"))
    present = [region for region in list(Region)[1:] if shares[region] > 0]
    rows = [
        [
            _region_name(region),
            f"{shares[region]:.3f}",
            f"{entropies[region]:.3f}",
            _cell(found["trace_share"], 0, region),
            _cell(found["signal_share"], 0, region),
        ]
        for region in present
    ]
    between = 1 - sum(found["trace_share"].value[0, region].item() for region in present)
    ratios = [
        [str(rule), *(_cell(found["trace_ratio"], index, region) for region in present)]
        for index, rule in enumerate(diagnosis.rules)
    ]
    names = [_region_name(region) for region in present]
    return (
        "## Regions\n\nGRPO's gradient by region. *Noise*: trace of the region's part over that of the whole; the "
        f"covariance between regions is the rest, {between:+.2f}. *Signal*: projection of the region's mean onto the "
        "whole mean; shares add up to 1.\n\n"
        + markdown_table(["region", "share of tokens", "entropy (nats)", "noise", "signal"], rows)
        + "\n\nNoise of a region's part under each rule, over GRPO's in the same region:\n\n"
        + markdown_table(["credit/coefficients", *names], ratios)
    )


def _lemma(diagnosis: Diagnosis) -> str:
    found = diagnosis.lemma_estimates()
    tokens = diagnosis.lemma[:, 0].sum(0)
    rows = [
        [_region_name(region), *(_cell(found[name], region) for name in ("squares", "expected", "excess", "bound"))]
        for region in Region
        if region == Region.NONE or tokens[region] > 0
    ]
    return (
        "## Lemma 2\n\nThe squared score of a token with respect to the logits has the expectation "
        "`1 - sum p^2`, which is at most `1 - exp(-H)`. Means over sampled tokens; the expectation is right if the "
        "difference holds 0. That is to be so for all tokens together; the region of a token may depend on the token "
        f"itself, and its mean is then another. The inequality fails at {diagnosis.violations} of {int(tokens.sum())} "
        "tokens.\n\n" + markdown_table(["region", "squared score", "expectation", "difference", "bound"], rows)
    )


def _theorem(diagnosis: Diagnosis, facts: Facts, found: dict[str, Estimates]) -> str:
    theorem = _theorem_estimates(diagnosis)
    if theorem is None or diagnosis.theorem is None:
        losses = " or ".join(PER_COMPLETION)
        return f"## Theorem 1\n\nNot measured: it needs exact gradients, --theory_groups and --loss_type {losses}."
    labels = (
        "variance of a completion's gradient, measured",
        "(1) if the gradients of tokens were orthogonal",
        "(2) and the advantage independent of them",
        "(3) the theorem's bound",
    )
    measured = theorem.steps.value[0].item()
    steps = [
        [label, _cell(theorem.steps, place), _number(theorem.steps.value[place].item() / measured)]
        for place, label in enumerate(labels)
    ]
    return (
        f"## Theorem 1\n\nFor GRPO's loss, from {len(diagnosis.theorem.squares)} groups. The theorem takes three "
        "steps from the variance of a completion's gradient to its bound; the first two hold for an advantage that "
        "is independent of the tokens, and completions of one length.\n\n"
        + markdown_table(["term", "value", "over the measured variance"], steps)
        + f"\n\nThe bound {'holds' if theorem.steps.value[3] >= measured else 'FAILS'} for these completions.\n\n"
        + _optimal_weights(diagnosis, facts, theorem.betas, found)
    )


def _optimal_weights(diagnosis: Diagnosis, facts: Facts, betas: Estimates, found: dict[str, Estimates]) -> str:
    """Theorem 2: the weights that minimise the bound, and those that the rule `entropy` uses in their place."""
    assert diagnosis.theorem is not None
    args = facts.args
    entropies, shares = diagnosis.statistics.tensors(torch.device("cpu"))
    inverse = 1 / betas.value.where(betas.value > 0, torch.nan)
    optimal = inverse / (inverse * shares).nansum()
    rule = rule_arguments(args.coefficients)
    surrogate = region_weights(entropies, shares, rule["surrogate"])
    slopes = (rule[name] for name in ("format_slope", "parameters_slope", "reasoning_slope"))
    used = curriculum_weights(surrogate, facts.progress, rule["minimum"], rule["maximum"], *slopes)
    used = used / (used * shares).sum()
    weights, parts = (optimal, surrogate, used), diagnosis.theorem.bounds.mean(0)
    bounds = [f"{float((weight.nan_to_num(0.0) ** 2 * parts).sum() / parts.sum()):.2f}" for weight in weights]
    rows = [
        [
            _region_name(region),
            f"{-torch.expm1(-entropies[region]):.3f}",
            _cell(betas, region),
            *(f"{weight[region]:.2f}" for weight in weights),
        ]
        for region in list(Region)[1:]
        if not betas.value[region].isnan()
    ]
    rows.append(["bound over GRPO's", "", "", *bounds])
    index = [str(rule) for rule in diagnosis.rules].index("completion/entropy")
    return (
        "`beta` of a token is the square of its logits' Jacobian times `1 - exp(-H)`; the paper's surrogate takes the "
        "Jacobian for the same everywhere. Weights have mean 1 over tokens.\n\n"
        + markdown_table(
            ["region", "1 - exp(-H)", "beta", "weight of Theorem 2", "weight of the surrogate", "bounded, as used"],
            rows,
        )
        + f"\n\nMeasured with the last weights (completion/entropy): noise {_cell(found['trace_ratio'], index, 0)} of "
        "GRPO's."
    )


def _cell(estimates: Estimates, *place: int) -> str:
    """A value with its interval, and a dash where there is none."""
    value, low, high = (part[place].item() for part in estimates)
    if value != value:
        return "-"
    return _number(value) if low != low or low == high else f"{_number(value)} [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.095 or value == 0 else f"{value:.2g}"
