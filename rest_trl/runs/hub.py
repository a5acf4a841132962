"""The push of a trained model to the Hub."""

import shlex
from pathlib import Path
from typing import Any

from .endings import is_unreachable


def push(trainer: Any, prog: str) -> None:
    """Push the saved model, with its card; if that fails, end with a line that says where it is and how to push it."""
    try:
        trainer.push_to_hub()
    except Exception as error:  # network, Hub or metadata check: the model is saved, and the cure is the same
        args = trainer.args
        repo = trainer.hub_model_id or args.hub_model_id or Path(args.output_dir).absolute().name
        command = ["hf", "upload", repo, args.output_dir, ".", "--exclude", "checkpoint-*"]
        command += ["--revision", args.hub_revision] if args.hub_revision else []
        cause = "the Hub cannot be reached: " if is_unreachable(error) else ""
        raise SystemExit(
            f"{prog}: error: the trained model is saved in {args.output_dir}, but pushing it to {repo} failed "
            f"({cause}{type(error).__name__}: {' '.join(str(error).split())}). Push it with: {shlex.join(command)}"
        ) from error
