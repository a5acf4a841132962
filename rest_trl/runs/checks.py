"""Optional packages that a run needs."""

from typing import Any

from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)


def check_trackers(args: TrainingArguments) -> None:
    """
    Refuse trackers that are not installed, for which `Trainer` has no error of its own kind.

    Args:
        args ([`~transformers.TrainingArguments`]):
            Their `report_to` names trackers. Unknown names are left to `Trainer`.

    Raises:
        ImportError: if one is not installed.
    """
    report_to: Any = args.report_to  # `TrainingArguments` has made a list of it
    available = get_available_reporting_integrations()
    missing = [name for name in report_to if name in INTEGRATION_TO_CALLBACK and name not in available]
    if missing:
        raise ImportError(
            f"report_to={missing[0]} needs the package {missing[0]}, which is not installed: pip install "
            f"{missing[0]}, or choose among {', '.join([*available, 'none'])}"
        )
