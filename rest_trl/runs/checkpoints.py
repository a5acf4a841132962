"""What a run leaves in its directory: whole and interrupted checkpoints, how to go on, what must stay."""

import errno
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


logger = get_logger(__name__)

_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
_TORCH_SUFFIXES = (".bin", ".pt", ".pth")
# PyTorch reports a failed write without its cause. A disk with less room than this is then taken to be full.
_FULL = 1 << 20  # bytes
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


def checkpoint_dirs(output_dir: str | Path) -> list[Path]:
    """List the checkpoints of a run, the latest step first, whether whole or not."""
    if not Path(output_dir).is_dir():
        return []
    found = [path for path in Path(output_dir).iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def checkpoint_fault(checkpoint: Path) -> str | None:
    """
    Say why a checkpoint is not whole.

    `Trainer` writes `trainer_state.json` last, so a readable one says that the save was completed. Weights and
    states are also checked for their length, because an interrupted copy or a crash can cut off any file. The
    contents of the files are not read.
    """
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {TRAINER_STATE_NAME}, which is written last"
    except ValueError:
        return f"its {TRAINER_STATE_NAME} is cut off"
    for index in checkpoint.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except ValueError:
            return f"its {index.name} is cut off"
        missing = sorted(shard for shard in shards if not (checkpoint / shard).exists())
        if missing:
            return f"it lacks {missing[0]}"
    for path in sorted(checkpoint.rglob("*")):
        if path.suffix == ".safetensors" and not is_whole_safetensors(path):
            return f"its {path.relative_to(checkpoint)} is cut off"
        if path.suffix in _TORCH_SUFFIXES and path.is_file() and not zipfile.is_zipfile(path):
            return f"its {path.relative_to(checkpoint)} is cut off"
    return None


def is_whole_safetensors(path: Path) -> bool:
    """Tell whether a file of weights has the length that its header says."""
    try:
        with safe_open(path, framework="pt"):  # it compares the header with the length of the file
            return True
    except SafetensorError:
        return False


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """Find the checkpoint to go on from."""
    return next((path for path in checkpoint_dirs(output_dir) if checkpoint_fault(path) is None), None)


def find_checkpoint(resume: str | bool | None, output_dir: str | Path) -> str | None:
    """Find the checkpoint that `resume_from_checkpoint` means, and warn of later ones that are not whole."""
    if resume is None or str(resume).lower() == "false":
        return None
    whole = last_whole_checkpoint(output_dir)
    if str(resume).lower() != "true":
        path = Path(str(resume))
        others = f"the last whole one in {output_dir} is {whole}" if whole else f"{output_dir} has no whole one"
        if not path.is_dir():
            raise FileNotFoundError(f"there is no checkpoint {path} to resume from: {others}")
        fault = checkpoint_fault(path)
        if fault is not None:
            raise ValueError(f"the checkpoint {path} is not whole ({fault}): {others}")
        return str(path)
    partial = checkpoint_dirs(output_dir)
    partial = partial if whole is None else partial[: partial.index(whole)]
    named = ", ".join(f"{path.name} is not whole ({checkpoint_fault(path)})" for path in partial)
    if whole is None:
        raise FileNotFoundError(
            f"{output_dir} has no whole checkpoint to resume from{f': {named}' if named else ''}. To start from the "
            f"beginning, leave out resume_from_checkpoint{' and give --overwrite_output_dir true' if named else ''}"
        )
    if named:
        logger.warning(f"{named}: its save was interrupted. Training goes on from {whole}")
    return str(whole)


def way_on(output_dir: str | Path) -> str:
    """Tell a user how to go on with a run that ended early."""
    whole = last_whole_checkpoint(output_dir)
    if whole is None:
        return f"{output_dir} has no whole checkpoint, so the next run starts from the beginning"
    return f"{whole} is whole: run the same command with --resume_from_checkpoint true to go on from it"


class FullDiskError(OSError):
    """The disk was full while a checkpoint or a model was written. The message says which, and how to go on."""


@contextmanager
def naming_full_disk(written: str | Path, output_dir: str | Path) -> Iterator[None]:
    """Turn whatever a save raises on a full disk into a [`FullDiskError`]; other errors pass."""
    try:
        yield
    except Exception as error:  # the tokenizers library raises no narrower class
        if not is_full_disk(error, output_dir):
            raise
        raise FullDiskError(
            errno.ENOSPC, f"the disk is full: {written} could not be written. Free some room; {way_on(output_dir)}"
        ) from error


def is_full_disk(error: BaseException, directory: str | Path) -> bool:
    """Tell whether a write failed because the disk, or the user's quota of it, is full."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in numbers
    if any(f"(os error {number})" in str(error) for number in numbers):  # of Rust: safetensors, tokenizers
        return True
    if "inline_container" not in str(error):  # in every error of PyTorch's writer
        return False
    path = Path(directory).absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    return shutil.disk_usage(existing).free < _FULL


def earlier_results(output_dir: str | Path) -> list[Path]:
    """List checkpoints and the final model that a run has left in its directory."""
    return checkpoint_dirs(output_dir) + sorted(path for name in _FINAL for path in Path(output_dir).glob(name))


def continues(checkpoint: str | Path | None, output_dir: str | Path) -> bool:
    """Tell whether a run goes on with the results in its directory."""
    return checkpoint is not None and Path(checkpoint).resolve().is_relative_to(Path(output_dir).resolve())


def check_output_dir(output_dir: str | Path) -> None:
    """Refuse a directory in which a run cannot write."""
    if not str(output_dir):
        raise ValueError("output_dir is empty: give a directory")
    path = Path(output_dir).absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        where = f"output_dir={output_dir} {'is' if existing == path else f'would lie in {existing}, which is'} a file"
        raise NotADirectoryError(f"{where}: give a directory, or a path that is free")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"output_dir={output_dir} cannot be written: {existing} is not yours to write in")


def check_results(output_dir: str | Path, resumes: bool, overwrites: bool) -> None:
    """Refuse a directory in which a new run would overwrite earlier results."""
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


class WholeCheckpoints:
    """
    Mixin of a [`~transformers.Trainer`] whose interrupted saves are not taken for checkpoints.

    A readable `trainer_state.json` marks a whole checkpoint (see [`checkpoint_fault`]). Nothing may therefore be
    written after that file, and an old one must be removed before its directory is written again.
    """

    args: Any
    accelerator: Any
    model: Any
    state: Any

    def way_on(self) -> str:
        """Tell a user how to go on with this run if it ends early, see [`way_on`]."""
        return way_on(self.args.output_dir)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer` does; `resume_from_checkpoint=True` means the last whole checkpoint of `output_dir`."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_checkpoint(True, self.args.output_dir)
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run_dir = self._get_output_dir(trial=trial)  # type: ignore[attr-defined]
        checkpoint = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save and os.path.isdir(checkpoint):
            shutil.rmtree(checkpoint)
        self.accelerator.wait_for_everyone()  # the other ranks write into the directory, too
        with naming_full_disk(checkpoint, run_dir):
            super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        # Only `trainer_state.json` is written later. Before it the main process waits here for the files of all ranks.
        self.accelerator.wait_for_everyone()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # A tied weight is saved once, so its other name is in no checkpoint.
        missing = [name for name in load_result.missing_keys if name not in self.model.all_tied_weights_keys]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))  # type: ignore[misc]
