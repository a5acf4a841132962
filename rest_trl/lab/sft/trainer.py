"""The trainer: TRL's supervised fine-tuning with a weight per region."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad
from trl import SFTTrainer

from ...gold.continuations import end_of_turn
from ...regions import Partitioner, normalize, region_sums, to_regions
from ...runs.checkpoints import WholeCheckpoints
from ...runs.preflight import PushAtTheEnd
from ...tool_calls import Region, detect_syntax, get_syntax
from .config import ResTSFTConfig
from .rows import IGNORED, stop_ids, tokenize_rows


class ResTSFTTrainer(PushAtTheEnd, WholeCheckpoints, SFTTrainer):
    """
    Trainer for SFT, TSFT and RSFT on gold completions, the supervised baselines of ResT (arXiv 2509.21826).

    It differs from [`~trl.SFTTrainer`] in one thing: the log-likelihood of a gold token is multiplied by the weight of
    its region, divided by the mean weight of its completion. Regions are those of [`~rest_trl.regions.partition`],
    read from the ids that the loss is on. With equal weights the loss is TRL's own, to the bit.

    A gold completion ends with the `eos_token` of `args`, and by default as the chat template ends a turn, see
    [`~rest_trl.gold.continuations.end_of_turn`].

    It logs means over all tokens between two logs: `rest/nll/all` and `rest/nll/{region}`, the negative log-likelihood
    in nats without the weights; `rest/share/{region}`, the share of the tokens; and `rest/coefficient/{region}`, the
    weight after the division.

    Args:
        model:
            See [`~trl.SFTTrainer`].
        args ([`ResTSFTConfig`], *optional*):
            Configuration. By default a [`ResTSFTConfig`] with the output directory `{model name}-SFT`.
        kwargs:
            See [`~trl.SFTTrainer`]. Data sets have the columns `prompt` and `solution`, see
            [`~rest_trl.data.load_rest_dataset`].

    Raises:
        ValueError: if `args` is not a [`ResTSFTConfig`], the syntax of the model is not known, its tokenizer has no
            byte table, a data set has other columns, or sequences are split over ranks.
    """

    args: ResTSFTConfig
    model: Any
    _metrics: Any
    _tag_names = ["trl", "sft", "rest"]

    def __init__(self, model: Any, args: ResTSFTConfig | None = None, **kwargs: Any) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = ResTSFTConfig(f"{name.split('/')[-1]}-SFT")
        if not isinstance(args, ResTSFTConfig):
            raise ValueError(
                f"ResTSFTTrainer needs a ResTSFTConfig as `args`, got {type(args).__name__}: it takes all arguments "
                "of SFTConfig"
            )
        for name in ("compute_loss_func", "formatting_func"):
            if kwargs.get(name) is not None:
                raise ValueError(f"{name} would take the place of the weights or of the gold completion: leave it out")
        # TRL prepares the data sets before this object has the model.
        loading: Any = args.model_init_kwargs or {}
        self._stop_ids = stop_ids(model, loading.get("revision") or "main")
        super().__init__(model, args, **kwargs)
        parallelism = self.accelerator.parallelism_config
        if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
            raise ValueError(
                "context and sequence parallelism split a completion over ranks, which need the whole of it for its "
                "regions: set cp_size and sp_size to 1"
            )
        self._partitioner = Partitioner(
            self._tokenizer, get_syntax(args.tool_call_syntax or detect_syntax(self._tokenizer))
        )
        self._region_weights = torch.tensor(args.region_weights)
        self._region_sums: dict[str, torch.Tensor] = {}

    @property
    def tool_call_syntax(self) -> str:
        """Name of the wire syntax."""
        return self._partitioner.tool_call_syntax.name

    def _prepare_dataset(  # type: ignore[override]
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        end = None  # TRL has made `args.eos_token` the tokenizer's
        if args.eos_token is None:
            end = end_of_turn(self._tokenizer, self._stop_ids, args.chat_template_kwargs)
        rows = tokenize_rows(dataset, self._tokenizer, dataset_name, args.max_length, args.dataset_num_proc, end)
        return super()._prepare_dataset(rows, processing_class, args, packing, formatting_func, dataset_name)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"]
        region_ids = to_regions(self._partitioner(inputs["input_ids"], labels != IGNORED))
        coefficients = self._region_weights.to(labels.device)[region_ids.long()]
        coefficients = normalize(coefficients, labels != IGNORED)
        weighted = partial(self._forward, model, region_ids, coefficients)
        return super().compute_loss(weighted, inputs, return_outputs, num_items_in_batch)

    def _forward(self, model: Any, region_ids: torch.Tensor, coefficients: torch.Tensor, **inputs: Any) -> Any:
        """The model's outputs, with the log-likelihood of every gold token times its coefficient."""
        outputs = model(**inputs)
        if not inputs.get("fused_lm_head", False):  # logits, for `compute_metrics` or label smoothing
            return outputs
        # The first token of a row is not predicted; the virtual tokens of a learned prompt come before it.
        extra = outputs.log_probs.size(1) - region_ids.size(1)
        region_ids, coefficients = pad(region_ids, (extra, 0)), pad(coefficients, (extra, 0))
        self._observe(region_ids, outputs.log_probs, coefficients)
        outputs.log_probs = outputs.log_probs * coefficients
        return outputs

    def _observe(self, region_ids: torch.Tensor, log_probs: torch.Tensor, coefficients: torch.Tensor) -> None:
        mode = "train" if self.model.training else "eval"
        sums = region_sums(region_ids, -log_probs.detach(), coefficients)
        self._region_sums[mode] = self._region_sums[mode] + sums if mode in self._region_sums else sums

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        sums = self._region_sums.pop(mode, None)
        if sums is not None:
            totals: torch.Tensor = self.accelerator.reduce(sums, reduction="sum")  # type: ignore[assignment]
            for name, value in _region_metrics(totals.cpu()).items():
                self._metrics[mode][name] = [value]
        super().log(logs, start_time)

    def create_model_card(  # type: ignore[override]  # as TRL has it
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        super().create_model_card(model_name or Path(str(self.args.output_dir)).name, dataset_name, tags)


def _region_metrics(totals: torch.Tensor) -> dict[str, float]:
    """Metrics by name, from the sums of [`~rest_trl.regions.region_sums`] over all ranks."""
    tokens, nll_counts, nll_sums, _, coefficient_sums = totals
    metrics = {"rest/nll/all": (nll_sums.sum() / nll_counts.sum().clamp(min=1)).item()}
    for region in list(Region)[1:]:
        name = region.name.lower()
        metrics[f"rest/share/{name}"] = (tokens[region] / tokens.sum().clamp(min=1)).item()
        if tokens[region] > 0:
            metrics[f"rest/nll/{name}"] = (nll_sums[region] / nll_counts[region].clamp(min=1)).item()
            metrics[f"rest/coefficient/{name}"] = (coefficient_sums[region] / tokens[region]).item()
    return metrics
