"""Results of an earlier run, which a new run must not overwrite silently."""

import os
import shutil
from pathlib import Path
from typing import Any

from .checkpoints import checkpoint_dirs


# What a run leaves at its end besides checkpoints: weights, their index, and the state of the trainer.
_FINAL = (
    "trainer_state.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)


def earlier_results(output_dir: str | Path) -> list[Path]:
    """List checkpoints and the final model that a run has left in its directory."""
    return checkpoint_dirs(output_dir) + sorted(path for name in _FINAL for path in Path(output_dir).glob(name))


def continues(checkpoint: str | Path | None, output_dir: str | Path) -> bool:
    """Tell whether a run goes on with the results in its directory."""
    return checkpoint is not None and Path(checkpoint).resolve().is_relative_to(Path(output_dir).resolve())


def check_output_dir(output_dir: str | Path, resumes: bool, overwrites: bool) -> None:
    """Refuse a directory in which a new run cannot write, or would overwrite earlier results."""
    if not str(output_dir):
        raise ValueError("output_dir is empty: give a directory")
    path = Path(output_dir).absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        where = f"output_dir={output_dir} {'is' if existing == path else f'would lie in {existing}, which is'} a file"
        raise NotADirectoryError(f"{where}: give a directory, or a path that is free")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"output_dir={output_dir} cannot be written: {existing} is not yours to write in")
    if resumes and overwrites:
        raise ValueError(
            "resume_from_checkpoint goes on with a run that overwrite_output_dir would remove: leave out one of them"
        )
    results = earlier_results(output_dir)
    if results and not resumes and not overwrites:
        rest = f" and {len(results) - 1} more" if len(results) > 1 else ""
        raise FileExistsError(
            f"{output_dir} holds results of an earlier run ({results[0].name}{rest}): give another --output_dir, go "
            "on with that run (--resume_from_checkpoint true), or remove them (--overwrite_output_dir true)"
        )


def remove_results(trainer: Any) -> None:
    """Remove checkpoints and the final model of an earlier run, and no other file, on the main process."""
    if trainer.args.should_save:
        for path in earlier_results(trainer.args.output_dir):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    trainer.accelerator.wait_for_everyone()
