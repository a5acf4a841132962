"""Pushes a trained model; if that fails, says where the model is saved and how to push it."""

import shlex
from typing import Any

from .endings import one_line


def push(trainer: Any, prog: str) -> None:
    """Push the saved model, with its card, to the Hub."""
    try:
        trainer.push_to_hub()
    except Exception as error:  # network, Hub or metadata check: the model is saved, and the cure is the same
        args = trainer.args
        repo = trainer.hub_model_id or args.hub_model_id
        command = ["hf", "upload", repo, args.output_dir, ".", "--exclude", "checkpoint-*"]
        command += ["--revision", args.hub_revision] if args.hub_revision else []
        raise SystemExit(
            f"{prog}: error: the trained model is saved in {args.output_dir}, but pushing it to {repo} failed "
            f"({type(error).__name__}: {one_line(error)}). Push it with: {shlex.join(command)}"
        ) from error
