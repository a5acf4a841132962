"""Shows the progress of a run: a bar with a few figures, or one line per log entry where there is no terminal."""

import sys
import time
from typing import Any

from accelerate.logging import get_logger
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.utils import is_in_notebook


logger = get_logger(__name__)

# Of some fifty metrics these tell whether a run goes well. The others are in the trackers and in `log_history`.
_SHOWN = {
    "reward": "reward {:.2f}",
    "rest/nll/all": "NLL {:.3f}",
    "rest/reward/exact_with_calls": "exact {:.2f}",
    "entropy": "entropy {:.2f}",
    "grad_norm": "gradient norm {:.2g}",
    "completions/mean_length": "{:.0f} tokens",
    "step_time": "{:.1f} s/step",
}


def summary(logs: dict[str, Any]) -> str:
    """
    Sum up one entry of the log.

    Example:

    ```python
    >>> summary({"reward": 1.5, "rest/reward/exact_with_calls": 0.625, "learning_rate": 1e-4})
    'reward 1.50, exact 0.62'
    >>> summary({"eval_reward": 1.25, "eval_runtime": 3.0})
    'reward 1.25'

    ```
    """
    prefix = "eval_" if any(name.startswith("eval_") for name in logs) else ""
    return ", ".join(form.format(logs[prefix + name]) for name, form in _SHOWN.items() if prefix + name in logs)


def _end(logs: dict[str, Any], state: Any) -> str | None:
    """The line for an evaluation or for the end of the run; `None` for any other log entry."""
    if "train_runtime" in logs:
        return f"trained {state.global_step} steps in {logs['train_runtime']:.0f} s"
    if "eval_reward" in logs or "eval_rest/nll/all" in logs:
        return f"evaluation after step {state.global_step}: {summary(logs)}"
    return None


class BarProgress(ProgressCallback):
    """A progress bar that shows a few figures of the last log after it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.training_bar is None or logs is None:
            return
        line = _end(logs, state)
        if line is not None:
            self.training_bar.write(line, file=sys.stderr)
        elif summary(logs):
            self.training_bar.set_postfix_str(summary(logs))


class LineProgress(TrainerCallback):
    """One line per log, for files and for `disable_tqdm`."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start, self._first_step = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is None:
            return
        line = _end(logs, state)
        if line is None and summary(logs):
            done = max(1, state.global_step - self._first_step)
            left = (time.monotonic() - self._start) / done * (state.max_steps - state.global_step)
            line = f"step {state.global_step}/{state.max_steps}: {summary(logs)}, {left:.0f} s left"
        if line is not None:
            logger.info(line)


def show_progress(trainer: Any) -> None:
    """
    Show a few figures per log instead of all metrics, in a notebook as a table. Trackers and `log_history` keep all.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer, before it trains.
    """
    has_bar = trainer.pop_callback(ProgressCallback) is not None
    has_lines = trainer.pop_callback(PrinterCallback) is not None
    if has_bar and sys.stderr.isatty():
        trainer.add_callback(BarProgress)
    elif has_bar or has_lines:
        trainer.add_callback(LineProgress)
    elif is_in_notebook():
        from .notebook import NotebookProgress, NotebookProgressCallback  # needs IPython

        if trainer.pop_callback(NotebookProgressCallback) is not None:
            trainer.add_callback(NotebookProgress)
