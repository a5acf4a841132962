"""Shows the progress of a run in a notebook. This is a module of its own because it needs IPython."""

from typing import Any

from transformers.utils.notebook import NotebookProgressCallback, NotebookTrainingTracker


# Metric, column and format. The loss of GRPO is left out: it is near zero whether a run goes well or not.
_COLUMNS = (
    ("reward", "Reward", "{:.2f}"),
    ("rest/nll/all", "NLL", "{:.3f}"),
    ("rest/reward/exact", "Exact", "{:.2f}"),
    ("entropy", "Entropy (nats)", "{:.2f}"),
    ("completions/mean_length", "Tokens", "{:.0f}"),
)


def row(logs: dict[str, Any], step: int) -> dict[str, Any]:
    """
    One row of the table.

    Example:

    ```python
    >>> row({"reward": 1.5, "rest/reward/exact": 0.625, "learning_rate": 1e-4}, 3)
    {'Step': 3, 'Reward': '1.50', 'Exact': '0.62'}
    >>> row({"eval_reward": 1.25}, 3)
    {'Step': 3, 'Held-out reward': '1.25'}

    ```
    """
    values = {name: form.format(logs[metric]) for metric, name, form in _COLUMNS if metric in logs}
    held_out = {
        f"Held-out {name[0].lower() + name[1:]}": form.format(logs[f"eval_{metric}"])
        for metric, name, form in _COLUMNS
        if f"eval_{metric}" in logs
    }
    return {"Step": step, **values, **held_out} if values or held_out else {}


class NotebookProgress(NotebookProgressCallback):
    """The bar and the table of `Trainer`, with a few figures of each log instead of the loss."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.training_tracker = NotebookTrainingTracker(state.max_steps)  # the first row gives the columns

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        values = row(logs or {}, state.global_step)
        if self.training_tracker is not None and values:
            self.training_tracker.write_line(values)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.prediction_bar = None  # its figures came with `on_log`
        if self.training_tracker is not None:
            self.training_tracker.remove_child()
            self._force_next_update = True
